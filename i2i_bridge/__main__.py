"""`python -m i2i_bridge`."""

from i2i_bridge.cli.command import main

if __name__ == "__main__":
    main()
