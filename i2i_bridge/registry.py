"""Registries: the classes and functions that a recipe selects by name, such as `name = "jpeg"`.

There is one registry for each kind of part. The names of built-in members are read from their source text (`members`)
and the module of a member is imported when that member is first used, so that listing names and rejecting unknown ones
need no torch. A user's class or function is registered by the same decorators, in an imported module or a plug-in
(`plugins`). A recipe cannot import code.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from typing import Any, ClassVar, TypeVar

from i2i_bridge import plugins
from i2i_bridge.errors import UserError, brief, check_keys, did_you_mean, located, nearest
from i2i_bridge.members import Option, SourceMember, members_of
from i2i_bridge.storage.names import expanded, file_name
from i2i_bridge.storage.toml import toml_value

LARGEST, LONGEST_TEXT = 10**12, 4096
"""The largest magnitude of a number and the most characters of a text in the options of a part."""
LIBRARY_OPTIONS = "library_options"
"""A parameter of this name takes all keys of a table that are no parameters: options of another library's class."""


T = TypeVar("T", bound=Callable[..., Any])


def _with_home(value: Any) -> Any:
    """A value of a recipe or card; in a text that begins with `~/`, the home folder replaces `~`."""
    return str(expanded(value)) if isinstance(value, str) and value.startswith("~/") else value


class Registry:
    """Mapping from names to classes or functions of one kind of part.

    Args:
        kind: Name of the kind in error messages, such as 'network'.
        homes: Modules or packages whose import registers the built-in members.
        decorator: Name of the decorator used in `homes`, by which member names are found without an import. Empty: the
            names are found by importing `homes`.
    """

    _has_user_members: ClassVar[bool] = False
    """Whether any registry holds a member from outside the package; its import may have registered more members."""

    def __init__(self, kind: str, *homes: str, decorator: str = "") -> None:
        self.kind = kind
        self._homes = homes
        self._decorator = decorator
        self._members: dict[str, Callable[..., Any]] = {}
        self._followers: list[Callable[[str, Callable[..., Any]], None]] = []
        self._loaded = False

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that registers a class or function under a name.

        Raises:
            UserError: The name is taken by another member, or is not valid as a part of a file name.
        """
        with located(f"{self.kind} '{name}'", errors=ValueError):
            file_name(name)

        def enter(member: T) -> T:
            # Import the built-in member of this name first; otherwise a user's member could replace it.
            if not member.__module__.startswith("i2i_bridge."):
                Registry._has_user_members = True
                plugins.add_source(member.__module__)
                self._import(name)
            registered = self._members.get(name, member)
            # A module that is imported again registers equal names.
            if _qualified(registered) != _qualified(member):
                raise UserError(
                    f"{self.kind} '{name}' is already registered by {_qualified(registered)}; choose another name"
                )
            self._members[name] = member
            for follower in self._followers:
                follower(name, member)
            return member

        return enter

    def follow(self, follower: Callable[[str, Callable[..., Any]], None]) -> None:
        """Call `follower(name, member)` for every registered member, and for each one registered later."""
        self._load()
        self._followers.append(follower)
        for name, member in list(self._members.items()):
            follower(name, member)

    def names(self) -> list[str]:
        """All names, sorted; those of installed plug-ins are among them."""
        plugins.load_installed_plugins()
        if self._has_user_members or not self._decorator:
            self._load()
        return sorted({*self._members, *self._source})

    def __contains__(self, name: str) -> bool:
        # The names of installed plug-ins last: otherwise every command would import these packages.
        return name in self._members or name in self._source or name in self.names()

    def require(self, name: str) -> None:
        """Reject a name that no member has, without importing a built-in member.

        Raises:
            UserError: No member has the name; the message names the nearest one, and the installed plug-ins that cannot
                be imported, since one of them might have it.
        """
        if name in self:
            return
        if broken := plugins.broken_plugins():
            raise UserError(f"unknown {self.kind} '{name}'{nearest(name, self.names())}; {'; '.join(broken)}")
        hint = did_you_mean(name, self.names())
        raise UserError(f"unknown {self.kind} '{name}'{hint} (if it is your own, load it: --plugin FILE.py)")

    def get(self, name: str) -> Callable[..., Any]:
        """The member of that name.

        Raises:
            UserError: As `require`.
        """
        self.require(name)
        self._import(name)
        return self._members[name]

    def documentation(self, name: str) -> str:
        """The docstring of a member, without indentation; empty if there is none, or only an inherited one.

        Raises:
            UserError: As `require`.
        """
        self.require(name)
        member = self._members.get(name)
        if member is None:
            return self._source[name].documentation
        # Not inspect.getdoc, which falls back to the base class: a network would show torch's text about nn.Module.
        text = inspect.cleandoc(member.__doc__ or "")
        generated = inspect.isclass(member) and text.startswith(
            f"{member.__name__}("
        )  # a dataclass writes its signature
        return "" if generated else text

    def option_texts(self, name: str) -> list[Option]:
        """The options of a member as text; a built-in member is imported only if its source cannot be parsed for them.

        Raises:
            UserError: As `require`.
        """
        self.require(name)
        options = None if name in self._members else self._source[name].options()
        return options if options is not None else [_option(key, p) for key, p in self.options(name).items()]

    def options(self, name: str) -> dict[str, inspect.Parameter]:
        """The parameters of a member's constructor, by name."""
        parameters = inspect.signature(self.get(name)).parameters
        many = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        # A torch.nn.Module that defines no constructor has *args and **kwargs.
        return {key: p for key, p in parameters.items() if p.kind not in many}

    def typed(self, name: str, key: str, text: Any) -> Any:
        """Parse the value of an option given on the command line: as TOML, or as text if the option's type is text.

        So the folder name `2024` stays text. The entries of a table (from dotted keys) are parsed one by one.
        """
        if isinstance(text, dict):
            entries = {inner: self.typed(name, f"{key}.{inner}", value) for inner, value in text.items()}
            return entries if self._takes(name, key, entries) else {k: str(v) for k, v in text.items()}
        value = toml_value(text)
        if isinstance(value, str) or "." in key or self._takes(name, key, value) or not self._takes(name, key, text):
            return value
        return text

    def _takes(self, name: str, key: str, value: Any) -> bool:
        """Whether a value is of an option's type."""
        parameters = {known: p for known, p in self.options(name).items() if known == key}
        try:
            _validated_options(name, parameters, {key: value}, self.get(name))
        except UserError:
            return False
        return True

    def check(self, settings: Mapping[str, Any], **arguments: Any) -> tuple[Callable[..., Any], dict[str, Any]]:
        """Look up the member of a table such as `{name = "jpeg", quality = 5}` and validate its options.

        The keys other than `name` are parameters of the constructor, validated by its annotations.

        Args:
            settings: The table, as read from TOML.
            arguments: Constructor arguments that the caller supplies; the table must not set them.

        Raises:
            UserError: Unknown name, unknown key (the message names the nearest), missing key, or a value of the wrong
                type.
        """
        options = {key: _with_home(value) for key, value in settings.items()}
        name = options.pop("name", None)
        if not isinstance(name, str):
            raise UserError(f"{self.kind}: the key 'name' is missing; known: {', '.join(self.names())}")
        member = self.get(name)
        parameters = {key: p for key, p in self.options(name).items() if key not in arguments}
        options = _gathered(options, parameters)
        return member, _validated_options(f"{self.kind} '{name}'", parameters, options, member)

    def gathered(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The table with the keys that its member leaves to another library moved into `library_options`; else a copy.

        Raises:
            UserError: As `require`.
        """
        parameters = self.options(str(settings.get("name")))
        return _gathered(settings, [*parameters, "name"])

    def check_keys(self, settings: Mapping[str, Any]) -> None:
        """Reject a table with an unknown name or key. Values are not checked and built-in members are not imported.

        Raises:
            UserError: Unknown name or key (the message names the nearest). A missing name is reported by `check`.
        """
        name = settings.get("name")
        if isinstance(name, str):
            known = [option.name for option in self.option_texts(name)]
            if LIBRARY_OPTIONS in known:  # which the constructor checks
                return
            with located(f"{self.kind} '{name}'"):
                check_keys([key for key in settings if key != "name"], known)

    def build(self, settings: Mapping[str, Any], **arguments: Any) -> Any:
        """Construct the member that a table describes; see `check`.

        Raises:
            UserError: As `check`, or the constructor raises a ValueError, such as for a value out of range.
        """
        member, values = self.check(settings, **arguments)
        # A user's class that lacks an abstract method raises a TypeError when it is constructed.
        refusals = ValueError if member.__module__.startswith("i2i_bridge.") else (ValueError, TypeError)
        with plugins.plugin_errors():
            try:
                return member(**values, **arguments)
            except refusals as error:
                raise UserError(f"{self.kind} '{settings['name']}': {error}") from error

    @cached_property
    def _source(self) -> dict[str, SourceMember]:
        """The built-in members by name, found in their source text."""
        homes = self._homes if self._decorator else ()
        return {name: member for home in homes for name, member in members_of(home, self._decorator).items()}

    def _import(self, name: str) -> None:
        """Import the module of a built-in member."""
        if name not in self._members and name in self._source:
            importlib.import_module(self._source[name].module)

    def _load(self) -> None:
        if self._loaded:
            return
        # Set before the imports: the home modules call this registry's methods while they are imported.
        self._loaded = True
        for home in self._homes:
            module = importlib.import_module(home)
            for inner in pkgutil.iter_modules(getattr(module, "__path__", [])):
                importlib.import_module(f"{home}.{inner.name}")


def _option(key: str, parameter: inspect.Parameter) -> Option:
    annotation = parameter.annotation
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    for prefix in ("typing.", "pathlib."):
        text = text.replace(prefix, "")
    default = None if parameter.default is parameter.empty else repr(parameter.default)
    return Option(key, text, default, parameter.kind is parameter.KEYWORD_ONLY)


def _gathered(options: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    library = options.get(LIBRARY_OPTIONS, {})
    if LIBRARY_OPTIONS not in known or not isinstance(library, dict):  # what is no table is refused by its type
        return dict(options)
    parameters = {key: value for key, value in options.items() if key in known}
    return parameters | {LIBRARY_OPTIONS: library | {key: value for key, value in options.items() if key not in known}}


def _qualified(member: Callable[..., Any]) -> str:
    return f"{member.__module__}.{member.__qualname__}"


def _validated_options(
    place: str,
    parameters: Mapping[str, inspect.Parameter],
    options: Mapping[str, Any],
    member: Callable[..., Any],
) -> dict[str, Any]:
    """The options of a member, validated by the annotations of its constructor."""
    import pydantic

    from i2i_bridge.storage.table import validated

    annotations = inspect.get_annotations(member.__init__ if inspect.isclass(member) else member, eval_str=True)
    fields: dict[str, Any] = {
        key: (annotations.get(key, Any), ... if p.default is inspect.Parameter.empty else p.default)
        for key, p in parameters.items()
    }
    config = pydantic.ConfigDict(arbitrary_types_allowed=True, strict=True, extra="forbid")
    model = pydantic.create_model("Options", __config__=config, **fields)
    with located(place):
        for key, value in options.items():
            _check_values(key, value)
        checked = validated(model, options, place)
    # Only the keys that the user gave; the constructor fills in its own defaults.
    return {key: getattr(checked, key) for key in options}


def _check_values(key: str, value: Any) -> None:
    """Reject values that are valid for no option, also inside arrays and tables.

    Raises:
        UserError: A number that is not finite or above 10^12 in magnitude; a text with a null character, or longer than
            4096 characters.
    """
    waiting = [value]
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, int | float) and not -LARGEST <= inner <= LARGEST:
            raise UserError(f"{key}: should be a finite number of at most {LARGEST:.0e}, got {brief(inner)}")
        if isinstance(inner, str) and ("\0" in inner or len(inner) > LONGEST_TEXT):
            raise UserError(f"{key}: should be a text of at most {LONGEST_TEXT} characters, none of them null")
        if isinstance(inner, dict | list | tuple):
            waiting += inner.values() if isinstance(inner, dict) else inner


PROCESSES = Registry(
    "process", "i2i_bridge.bridge.processes", "i2i_bridge.bridge.released", decorator="register_process"
)
TARGETS = Registry("target", "i2i_bridge.bridge.targets", decorator="register_target")
PROPOSALS = Registry("proposal", "i2i_bridge.bridge.proposals", decorator="register_proposal")
SAMPLERS = Registry("sampler", "i2i_bridge.bridge.samplers", decorator="register_sampler")
TIME_GRIDS = Registry(
    "time grid", "i2i_bridge.bridge.time_grids", "i2i_bridge.bridge.released", decorator="register_time_grid"
)
DEGRADATIONS = Registry("degradation", "i2i_bridge.degradations", decorator="register_degradation")
GUIDANCES = Registry("guidance", "i2i_bridge.guidance", decorator="register_guidance")
DATASETS = Registry("dataset kind", "i2i_bridge.data.sources", decorator="register_dataset")
NETWORKS = Registry("network", "i2i_bridge.networks", decorator="register_network")
DISCRIMINATORS = Registry("discriminator", "i2i_bridge.networks", decorator="register_discriminator")
METRICS = Registry("metric", "i2i_bridge.metrics", decorator="register_metric")
EXTRACTORS = Registry("extractor", "i2i_bridge.metrics", decorator="register_extractor")
AUTOENCODERS = Registry("autoencoder", "i2i_bridge.runs.autoencoders", decorator="register_autoencoder")
METHODS = Registry("method", "i2i_bridge.methods", decorator="register_method")
KINDS: dict[str, Registry] = {
    "processes": PROCESSES,
    "targets": TARGETS,
    "proposals": PROPOSALS,
    "samplers": SAMPLERS,
    "grids": TIME_GRIDS,
    "degradations": DEGRADATIONS,
    "guidances": GUIDANCES,
    "dataset-kinds": DATASETS,
    "networks": NETWORKS,
    "discriminators": DISCRIMINATORS,
    "metrics": METRICS,
    "extractors": EXTRACTORS,
    "methods": METHODS,
    "autoencoders": AUTOENCODERS,
}
"""The registries by their names in `i2i-bridge list`, such as `list samplers`."""


register_process = PROCESSES.register
register_target = TARGETS.register
register_proposal = PROPOSALS.register
register_sampler = SAMPLERS.register
register_time_grid = TIME_GRIDS.register
register_degradation = DEGRADATIONS.register
register_guidance = GUIDANCES.register
register_dataset = DATASETS.register
register_network = NETWORKS.register
register_discriminator = DISCRIMINATORS.register
register_metric = METRICS.register
register_extractor = EXTRACTORS.register
register_method = METHODS.register
register_autoencoder = AUTOENCODERS.register
