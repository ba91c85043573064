"""See, and if wished replace, the hidden states that pass a site."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sae_dist.common.errors import UserError
from sae_dist.lm.sites import End, Site

Visit = Callable[[Tensor], Tensor | None]


def at_site(model: nn.Module, site: Site, visit: Visit) -> RemovableHandle:
    """Call `visit(acts_NSD)` whenever hidden states pass `site`, until the handle is removed.

    A tensor that `visit` returns takes their place. Modules may take hidden states as their first
    positional argument or by keyword, and may return them alone or first in a tuple. Raises
    UserError, in the forward pass, if what passes there is not of the shape [N, S, D].
    """
    module = model.get_submodule(site.module_path)

    def on_input(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            new = visit(_hidden(site, args[0]))
            return None if new is None else ((new, *args[1:]), kwargs)
        key = "hidden_states" if "hidden_states" in kwargs else next(iter(kwargs), "")
        new = visit(_hidden(site, kwargs.get(key)))
        return None if new is None else (args, {**kwargs, key: new})

    def on_output(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        is_tuple = isinstance(output, tuple)
        new = visit(_hidden(site, output[0] if is_tuple else output))
        return (new, *output[1:]) if is_tuple and new is not None else new

    if site.end is End.input:
        return module.register_forward_pre_hook(on_input, with_kwargs=True)
    return module.register_forward_hook(on_output)


def _hidden(site: Site, value: Any) -> Tensor:
    if isinstance(value, Tensor) and value.ndim == 3 and value.is_floating_point():
        return value
    shape = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
    raise UserError(
        f"found {shape} at site {site.name}; expected hidden states [sequence, position, width]; "
        "name another module"
    )
