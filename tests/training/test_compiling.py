"""A network's blocks translated by torch.compile; the backends here run the graphs as they are, which takes no time."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from i2i_bridge.device import compile_blocks
from i2i_bridge.errors import UserError
from i2i_bridge.networks.unet import UNet

CPU = torch.device("cpu")


class Counting:
    """A backend that counts the graphs."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        self.graphs += 1
        return graph.forward


def unet(**options: Any) -> UNet:
    torch.manual_seed(0)
    network = UNet(channels=8, head_channels=8, **options)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def gradients(network: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    network.zero_grad()
    network(x, torch.tensor([0.2, 0.9])).square().mean().backward()
    return [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    config = torch._dynamo.config
    limits = {name: getattr(config, name) for name in ("recompile_limit", "accumulated_recompile_limit")}
    with config.patch(limits):  # puts them back
        yield
    torch._dynamo.reset()


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.map = nn.Linear(width, width + 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.map(x))


class Stack(nn.Module):
    """Blocks of twelve sizes, each once for every one of `times`."""

    repeated = (Block,)

    def __init__(self, times: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width) for width in range(1, 13) for _ in range(times))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return sum(block(x[:, : block.map.in_features]).sum() for block in self.blocks)  # type: ignore[no-any-return]


class Whole(nn.Module):
    """A network without `repeated`; torch 2.11 compiles no class of torch.nn itself, such as Sequential."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.map(x))


def test_a_compiled_unet_computes_the_same_under_the_same_names():
    # kills: compile-without-blocks; a block wrapped, so that its weights have new names
    plain, compiled = (unet(channel_mult=(1,), blocks_per_level=1) for _ in range(2))
    compile_blocks(compiled, CPU, "aot_eager")
    assert list(compiled.state_dict()) == list(plain.state_dict())
    x = torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(gradients(compiled, x), gradients(plain, x), rtol=1e-4, atol=1e-6)
    done = [name for name, module in compiled.named_modules() if module._compiled_call_impl is not None]
    assert done == [
        "input_blocks.1.0",
        "middle_block.0",
        "middle_block.1",
        "middle_block.2",
        "output_blocks.0.0",
        "output_blocks.1.0",
    ]


def test_equal_blocks_share_their_code_and_none_is_left_out():
    # kills: compile-limit-kept (torch leaves all beyond the eighth size as it was)
    backend, stack = Counting(), Stack(3)
    compile_blocks(stack, CPU, backend)
    assert backend.graphs == 1  # the trial
    x = torch.randn(2, 12)
    wanted = sum(Block.forward(block, x[:, : block.map.in_features]).sum() for block in stack.blocks)
    torch.testing.assert_close(stack(x), wanted)
    assert backend.graphs == 1 + 12


def test_a_network_without_blocks_is_compiled_whole():
    # kills: compile-blocks-only
    backend, network = Counting(), Whole()
    compile_blocks(network, CPU, backend)
    before = backend.graphs
    network(torch.zeros(1, 2))
    assert backend.graphs == before + 1


def test_where_torch_cannot_compile_one_line_says_so():
    def broken(graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        raise RuntimeError("no C++ compiler\nmore of it")

    with pytest.raises(UserError) as caught:
        compile_blocks(unet(), CPU, broken)
    assert "train.compile: torch cannot compile for cpu here" in str(caught.value)
    assert "set it to false" in str(caught.value) and "\n" not in str(caught.value)
