"""The feature networks behind distances between sets of images; their weights come from the user's folder only."""
