"""Graphs of networks and of whole restorations, as files of torch.export, ONNX and OpenVINO."""

import io
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from i2i_bridge import __version__
from i2i_bridge.bridge.predictor import call_network
from i2i_bridge.errors import UserError
from i2i_bridge.libraries import reason
from i2i_bridge.methods.geometry import method_geometry
from i2i_bridge.methods.latent import Latent, latent_of
from i2i_bridge.plugins import plugin_errors
from i2i_bridge.runs.plan import Stage, restored
from i2i_bridge.runs.run import Run

OPSET = 18
"""Version of the ONNX operators; onnxruntime 1.14 (2023) and later run it."""
IR = 8
"""Version of the ONNX file format, the one of OPSET."""
WEIGHTS = "weights.bin"
ENCODER, DECODER = "encoder", "decoder"
"""Names of the graphs of the autoencoder of [latent], among those of the networks."""
LARGE = 1024
"""Size in bytes from which a tensor lies in WEIGHTS, which all graphs share, and not in the graph."""


class GraphNetwork(nn.Module):
    """A network as `call_network` calls it."""

    def __init__(self, network: nn.Module, condition: bool) -> None:
        super().__init__()
        self.network, self.condition = network, condition

    def forward(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        return call_network(self.network, x_t, t, condition)


class Encoder(nn.Module):
    """`Latent.encode` without its contexts for gradients and autocast, which a graph does not have."""

    def __init__(self, latent: Latent) -> None:
        super().__init__()
        self.latent, self.autoencoder = latent, latent.autoencoder

    def forward(self, x: Tensor) -> Tensor:
        return self.latent.scaled(self.autoencoder.encode(x))


class Decoder(nn.Module):
    """`Latent.decode` without its contexts, see `Encoder`."""

    def __init__(self, latent: Latent) -> None:
        super().__init__()
        self.latent, self.autoencoder = latent, latent.autoencoder

    def forward(self, latents: Tensor) -> Tensor:
        return self.autoencoder.decode(self.latent.unscaled(latents))


class _Restoration(nn.Module):
    """A whole restoration, X_1 -> X_0, in the layout of inputs of a graph."""

    def __init__(self, networks: Mapping[str, nn.Module], stages: list[Stage]) -> None:
        super().__init__()
        self.networks, self.stages = nn.ModuleDict(networks), stages

    def forward(
        self, x_1: Tensor, mask: Tensor | None = None, condition: Tensor | None = None, noise: Tensor | None = None
    ) -> Tensor:
        def called(network: nn.Module) -> Callable[[Tensor, float, Tensor | None], Tensor]:
            def call(x_t: Tensor, time: float, condition: Tensor | None) -> Tensor:
                t = torch.full((x_t.shape[0],), time, dtype=torch.float64)
                output: Tensor = network(x_t, t, condition)
                return output

            return call

        x_0: Tensor = restored(
            self.stages,
            {name: called(network) for name, network in self.networks.items() if isinstance(network, GraphNetwork)},
            x_1,
            mask,
            condition,
            iter(() if noise is None else noise.unbind(0)),
            clip=lambda x: x.clamp(-1, 1),
            choose=lambda hole, a, b: torch.where(hole > 0.5, a, b),
            coder=(self.networks[ENCODER], self.networks[DECODER]) if ENCODER in self.networks else None,
        )
        return x_0


@dataclass(frozen=True)
class Tracer:
    """Traces modules with symbolic batch, height and width."""

    run: Run
    networks: Mapping[str, nn.Module]
    inputs: Mapping[str, int]
    say: Callable[[str], None]

    def images(self) -> dict[str, Tensor]:
        """Example images: two sides that differ, the smallest that no tracer takes for a constant."""
        stride, smallest = method_geometry(self.run.method)
        height = max(2 * stride, smallest)
        channels = {"x_1": self.run.recipe.data.channels} | dict(self.inputs)
        return {name: torch.zeros(2, count, height, height + stride) for name, count in channels.items()}

    def state(self) -> Tensor:
        """Example of what the networks work on: an image, or its latents."""
        x_1, latent = self.images()["x_1"], latent_of(self.run.method)
        if latent is None:
            return x_1
        sides = (side // latent.autoencoder.factor for side in x_1.shape[2:])
        return torch.zeros(len(x_1), latent.autoencoder.channels, *sides)

    def network(self, name: str) -> torch.export.ExportedProgram:
        """The program of a network alone."""
        module, images, state = self.networks[name], self.images(), self.state()
        if isinstance(module, Encoder):
            return self._program(module, {"x": images["x_1"]}, name)
        if isinstance(module, Decoder):
            return self._program(module, {"latents": state}, name)
        inputs = {"x_t": state, "t": torch.ones(2, dtype=torch.float64)}
        if module.condition:
            given = state if ENCODER in self.networks else images.get("condition", state)
            # A tensor of its own: torch.export makes one input of two that are the same object.
            inputs["condition"] = given.clone()
        return self._program(module, inputs, name)

    def restoration(self, stages: list[Stage], name: str) -> torch.export.ExportedProgram:
        """The program of a plan."""
        inputs, draws = self.images(), sum(stage.draws for stage in stages)
        if draws:
            inputs["noise"] = torch.zeros(draws, *self.state().shape)
        return self._program(_Restoration(self.networks, stages), inputs, name)

    def _program(self, module: nn.Module, inputs: dict[str, Tensor], name: str) -> torch.export.ExportedProgram:
        self.say(f"tracing {name}")
        free = torch.export.Dim.DYNAMIC
        shapes = {
            key: {0: free}
            if value.ndim == 1
            else {axis: free for axis in (value.ndim - 4, value.ndim - 2, value.ndim - 1)}
            for key, value in inputs.items()
        }
        with torch.no_grad(), plugin_errors():
            try:
                return torch.export.export(module, (), inputs, dynamic_shapes=shapes, strict=False)
            except (RuntimeError, ValueError, TypeError, NotImplementedError, AssertionError) as error:
                raise UserError(f"{name}: torch.export cannot trace it ({reason(error)})") from error


def _torch_files(
    trace: Tracer, names: list[str], plans: list[list[Stage]], graphs: list[str]
) -> list[tuple[str, bytes]]:
    files = []
    for network, name in zip(trace.networks, names, strict=True):
        files.append((name, _saved(trace.network(network))))
    for stages, name in zip(plans, graphs, strict=True):
        files.append((name, _saved(trace.restoration(stages, name))))
    return files


def _saved(program: torch.export.ExportedProgram) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def _openvino_files(
    trace: Tracer, names: list[str], plans: list[list[Stage]], graphs: list[str]
) -> list[tuple[str, bytes]]:
    import openvino

    files = []
    with tempfile.TemporaryDirectory(prefix="i2i-bridge-", ignore_cleanup_errors=True) as folder:
        swapped = [[name.replace(".xml", ".onnx") for name in group] for group in (names, graphs)]
        for name, data in _onnx_files(trace, swapped[0], plans, swapped[1]):
            Path(folder, name).write_bytes(data)
        for name in (*names, *graphs):
            model = openvino.Core().read_model(Path(folder, name.replace(".xml", ".onnx")))
            openvino.save_model(model, Path(folder, name), compress_to_fp16=False)
            for part in (name, name.replace(".xml", ".bin")):
                files.append((part, Path(folder, part).read_bytes()))
    return files


def _onnx_files(
    trace: Tracer, names: list[str], plans: list[list[Stage]], graphs: list[str]
) -> list[tuple[str, bytes]]:
    weights = bytearray()
    networks = {}
    for network in trace.networks:
        networks[network] = _onnx_network(trace.network(network), network, weights)
    models = [
        (name, _onnx_model(graph, networks.values())) for name, graph in zip(names, networks.values(), strict=True)
    ]
    models += [
        (name, _onnx_model(_onnx_restoration(networks, stages, trace), networks.values()))
        for stages, name in zip(plans, graphs, strict=True)
    ]
    return [*((name, model.SerializeToString(deterministic=True)) for name, model in models), (WEIGHTS, bytes(weights))]


def _onnx_network(program: torch.export.ExportedProgram, name: str, weights: bytearray) -> Any:
    """The ONNX graph of a network, without the stack traces, which name local files; large tensors go to `weights`."""
    import onnx

    inputs = [spec.arg.name for spec in program.graph_signature.input_specs if spec.kind.name == "USER_INPUT"]
    try:
        made: Any = torch.onnx.export(
            program, (), dynamo=True, opset_version=OPSET, input_names=inputs, output_names=["output"], verbose=False
        )
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        raise UserError(f"{name}: torch.onnx cannot write it ({reason(error)})") from error
    proto = made.model_proto
    nested = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
    if proto.functions or any(attribute.type in nested for node in proto.graph.node for attribute in node.attribute):
        raise UserError(f"{name}: it branches or loops by its values, which export does not write")
    graph = onnx.GraphProto(name=name)
    renamed = {tensor.name: f"{name}/{tensor.name}" for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        bare = onnx.NodeProto(name=node.name, op_type=node.op_type, domain=node.domain, attribute=node.attribute)
        bare.input.extend(renamed.get(value, value) for value in node.input)
        bare.output.extend(node.output)
        graph.node.append(bare)
    for tensor in proto.graph.initializer:
        bare = onnx.TensorProto(name=renamed[tensor.name], dims=tensor.dims, data_type=tensor.data_type)
        if len(tensor.raw_data) < LARGE:
            bare.raw_data = tensor.raw_data
        else:
            # Whole pages: otherwise a program could not map the tensor into memory.
            weights.extend(bytes(-len(weights) % 4096))
            bare.data_location = onnx.TensorProto.EXTERNAL
            places = {"location": WEIGHTS, "offset": len(weights), "length": len(tensor.raw_data)}
            bare.external_data.extend(
                onnx.StringStringEntryProto(key=key, value=str(value)) for key, value in places.items()
            )
            weights.extend(tensor.raw_data)
        graph.initializer.append(bare)
    for value in proto.graph.input:
        kind = value.type.tensor_type
        sides = [side.dim_value for side in kind.shape.dim]
        shape = ["batch"] if len(sides) == 1 else _shape(sides[1], latent=value.name == "latents")
        graph.input.append(onnx.helper.make_tensor_value_info(value.name, kind.elem_type, shape))
    channels = proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    shape = _shape(channels, latent=name == ENCODER)
    graph.output.append(onnx.helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, shape))
    return graph


def _shape(channels: int, *, latent: bool = False) -> list[str | int]:
    """Names of sides: of one name are equal sides, and programs plan their memory by that."""
    return ["batch", channels, *(f"{'latent_' if latent else ''}{side}" for side in ("height", "width"))]


class _Nodes:
    """Nodes of an ONNX graph under construction."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Append a node of one output; return the name of the output."""
        import onnx

        name = f"walk/{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def add_network(self, graph: Any, **inputs: str) -> str:
        """Append a copy of a network's nodes; return the name of its output."""
        import onnx

        prefix, kept = f"call/{len(self.nodes)}/", {tensor.name for tensor in graph.initializer} | {""}
        for node in graph.node:
            copied = onnx.NodeProto()
            copied.CopyFrom(node)
            copied.name = prefix + node.name
            copied.input[:] = [value if value in kept else inputs.get(value, prefix + value) for value in node.input]
            copied.output[:] = [prefix + value for value in node.output]
            self.nodes.append(copied)
        return prefix + str(graph.output[0].name)


@dataclass(frozen=True)
class _Value:
    """An output of a node, with the arithmetic of `runs.plan.restored`."""

    graph: _Nodes
    name: str

    def __mul__(self, weight: float) -> "_Value":
        return _Value(self.graph, self.graph.add("Mul", self.name, self.graph.add("Constant", value_float=weight)))

    def __add__(self, other: "_Value") -> "_Value":
        return _Value(self.graph, self.graph.add("Add", self.name, other.name))


def _onnx_restoration(networks: Mapping[str, Any], stages: list[Stage], trace: Tracer) -> Any:
    """The ONNX graph of a plan: a copy of the network's nodes for each call."""
    import onnx

    graph = _Nodes()
    channels = trace.run.recipe.data.channels
    shapes: dict[str, list[str | int]] = {"x_1": _shape(channels)}
    shapes |= {name: _shape(count) for name, count in trace.inputs.items()}
    draws = sum(stage.draws for stage in stages)
    if draws:
        state = trace.state().shape[1]
        shapes["noise"] = [draws, *_shape(state, latent=ENCODER in networks)]
    batch = graph.add("Shape", "x_1", start=0, end=1)
    values = {name: _Value(graph, name) for name in shapes}

    def noises() -> Iterator[_Value]:
        for i in range(draws):
            yield _Value(graph, graph.add("Gather", "noise", graph.add("Constant", value_int=i), axis=0))

    def called(network: Any) -> Callable[[_Value, float, _Value | None], _Value]:
        def call(x_t: _Value, time: float, condition: _Value | None) -> _Value:
            moment = onnx.helper.make_tensor("time", onnx.TensorProto.DOUBLE, [1], [time])
            inputs = {"x_t": x_t.name, "t": graph.add("Expand", graph.add("Constant", value=moment), batch)}
            inputs |= {} if condition is None else {"condition": condition.name}
            return _Value(graph, graph.add_network(network, **inputs))

        return call

    def clip(x: _Value) -> _Value:
        ends = [graph.add("Constant", value_float=end) for end in (-1.0, 1.0)]
        return _Value(graph, graph.add("Clip", x.name, *ends))

    def choose(mask: _Value, a: _Value, b: _Value) -> _Value:
        hole = graph.add("Greater", mask.name, graph.add("Constant", value_float=0.5))
        return _Value(graph, graph.add("Where", hole, a.name, b.name))

    def encode(x: _Value) -> _Value:
        return _Value(graph, graph.add_network(networks[ENCODER], x=x.name))

    def decode(latents: _Value) -> _Value:
        return _Value(graph, graph.add_network(networks[DECODER], latents=latents.name))

    x_0 = restored(
        stages,
        {name: called(network) for name, network in networks.items()},
        values["x_1"],
        values.get("mask"),
        values.get("condition"),
        noises(),
        clip=clip,
        choose=choose,
        coder=(encode, decode) if ENCODER in networks else None,
    )
    graph.nodes.append(onnx.helper.make_node("Identity", [x_0.name], ["x_0"], "x_0"))
    info, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    given = [info(name, kind, shape) for name, shape in shapes.items()]
    return onnx.helper.make_graph(graph.nodes, "restoration", given, [info("x_0", kind, _shape(channels))])


def _onnx_model(graph: Any, networks: Iterable[Any]) -> Any:
    """A model of a graph, with the weights of the networks that it uses."""
    import onnx

    used = {value for node in graph.node for value in node.input}
    whole = onnx.GraphProto()
    whole.CopyFrom(graph)
    del whole.initializer[:]
    whole.initializer.extend(tensor for network in networks for tensor in network.initializer if tensor.name in used)
    opsets = [onnx.helper.make_opsetid("", OPSET)]
    return onnx.helper.make_model(
        whole, opset_imports=opsets, ir_version=IR, producer_name="i2i-bridge", producer_version=__version__
    )


FILES = {"onnx": _onnx_files, "torch": _torch_files, "openvino": _openvino_files}
"""For each format the function that makes the files: (tracer, names of networks, plans, names of their graphs)."""
