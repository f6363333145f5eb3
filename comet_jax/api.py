"""What users call: ``private``, ``share``, ``reveal``, ``explain``."""

from hashlib import sha256
from typing import Any

import jax
import numpy as np
from flax import nnx

from comet_jax.errors import CometError
from comet_jax.frontend import flax as frontend
from comet_jax.frontend.flax import Private
from comet_jax.frontend.trace import trace
from comet_jax.passes.explain import Explanation
from comet_jax.passes.explain import explain as explain_plan
from comet_jax.passes.lower import OwnedInput, SharedInput, lower
from comet_jax.policy import Policy
from comet_jax.runtime.plan import Plan
from comet_jax.runtime.secret import Secret, Shares, is_secret
from comet_jax.runtime.session import current


def private(obj: Any = None, *, policy: Policy | None = None) -> Any:
    """Make a Flax module or a function private.

    ``obj`` is a linen or nnx module class or instance, or a function of arrays; without it, a decorator with options.
    On ordinary arrays the result does what ``obj`` did. With a secret among its arguments it runs on shares, between
    two parties, and returns secrets. Operations that have no private form are refused with their place.
    """
    if obj is None:
        return lambda o: private(o, policy=policy)
    return frontend.make_private(obj, policy or Policy(), _execute)


def share(tree: Any, owner: str) -> Any:
    """``tree`` (a pytree of arrays, or an nnx module) as secrets of the role ``owner``.

    In a connected session only the owner needs the values: others may pass ``jax.ShapeDtypeStruct``. Numbers are
    checked and encoded when a private function first uses them. Raises ``CometError`` outside a session.
    """
    session = current()

    def one(x: Any) -> Secret:
        if isinstance(x, Secret):
            raise CometError(f"{x!r} is secret already")
        abstract = isinstance(x, jax.ShapeDtypeStruct)
        if abstract and session.holds(owner):
            raise CometError(f"{owner} is played by this process, so share() needs its values, not shapes")
        dtype = np.dtype(x.dtype) if hasattr(x, "dtype") else np.asarray(x).dtype
        if dtype.kind == "f" and dtype.itemsize == 8 and not hasattr(x, "dtype"):
            dtype = np.dtype(np.float32)
        if dtype.kind not in "fiubV":
            raise CometError(f"arrays of {dtype} cannot be shared: real numbers, integers and booleans can")
        value = np.asarray(x) if not abstract and session.holds(owner) else None
        return Secret(tuple(np.shape(x)), dtype, owner, session, value)

    if isinstance(tree, nnx.Module):
        return frontend.share_module(tree, one)
    return jax.tree.map(one, tree, is_leaf=is_secret)


def seal(secret: Secret, policy: Policy | None = None) -> Secret:
    """A shared real array as shares from here on.

    What depends on one owner's secrets alone, that owner computes in the clear before sharing. A sealed value is
    nobody's: every operation on it runs between the parties, as on the result of an earlier private call.
    """
    if not isinstance(secret, Secret) or secret.owner is None:
        raise CometError(f"seal() takes a secret that share() made, not {secret!r}")
    return current().seal(secret, policy or Policy())


def reveal(tree: Any, to: str = "client") -> Any:
    """The values of the secrets in ``tree``, for the role ``to``; None in processes that play other roles.

    Parties compare their records of the whole run before anything is revealed. A result may go to any role that the
    caller names; an input only back to its owner.
    """
    leaves, treedef = jax.tree.flatten(tree, is_leaf=is_secret)
    secret = [x for x in leaves if is_secret(x)]
    values = iter(current().reveal(secret, to) if secret else [])
    return jax.tree.unflatten(treedef, [next(values) if is_secret(x) else x for x in leaves])


def explain(fn: Any, *args: Any, policy: Policy | None = None, **kwargs: Any) -> Explanation:
    """What a private call would cost and reveal, by operation; nothing is run.

    ``fn`` is private or not yet; arguments are secrets, public arrays, or shapes (``jax.ShapeDtypeStruct``), which
    count as secrets: of "model" in the first argument, of "client" in later ones.
    """
    if not isinstance(fn, Private):
        fn = private(fn, policy=policy)
    return explain_plan(plan_for(fn, args, kwargs, {})[0])


def plan_for(fn: Private, args: tuple, kwargs: dict[str, Any], plans: dict[Any, tuple]) -> tuple[Plan, Any, list]:
    """The plan of a call, the tree of its results, and its flat inputs. ``plans`` caches."""
    pure, args, kwargs = fn.pure(args, kwargs)
    leaves = jax.tree_util.tree_flatten((args, kwargs), is_leaf=is_secret)[0]
    roles = ["client"] * len(leaves)
    first = len(jax.tree_util.tree_leaves(args[:1], is_leaf=is_secret))
    if len(args) > 1:
        roles[:first] = ["model"] * first
    key = (fn.key, fn.policy, str(jax.tree.structure((args, kwargs), is_leaf=is_secret)), tuple(map(_identity, leaves)))
    if key not in plans:
        traced = trace(pure, args, kwargs)
        inputs = [_input(x, name, role, fn.policy) for x, name, role in zip(leaves, traced.names, roles, strict=True)]
        lowered = lower(traced.graph, inputs, fn.policy)
        plans[key] = (Plan(lowered), traced.out_tree)
    plan, out_tree = plans[key]
    return plan, out_tree, leaves


def _input(x: Any, name: str, role: str, policy: Policy) -> Any:
    if isinstance(x, jax.ShapeDtypeStruct):
        x = Secret(x.shape, np.dtype(x.dtype), role, None)
    if not isinstance(x, Secret):
        return np.asarray(x)
    if isinstance(x.payload, Shares):
        return SharedInput(x.shape, x.dtype, x.payload.ring, x.payload.scale, x.payload.has_centred)
    assert x.owner is not None
    owner = "client" if policy.publishes(name) else x.owner
    return OwnedInput(owner, name, x.shape, x.dtype)


def _identity(x: Any) -> Any:
    """What a plan depends on of an input: the value itself of a public one."""
    if isinstance(x, Secret):
        extra = (x.payload.scale, x.payload.ring, x.payload.has_centred) if isinstance(x.payload, Shares) else x.owner
        return x.shape, str(x.dtype), extra
    if isinstance(x, jax.ShapeDtypeStruct):
        return x.shape, str(x.dtype), "shape"
    array = np.asarray(x)
    return array.shape, str(array.dtype), sha256(array.tobytes()).hexdigest()


def _execute(fn: Private, args: tuple, kwargs: dict[str, Any]) -> Any:
    session = current()
    plan, out_tree, leaves = plan_for(fn, args, kwargs, session.plans)
    for x in leaves:
        if isinstance(x, Secret) and x.session is not session:
            raise CometError(f"{x!r} belongs to another session: share it again in this one")
    return jax.tree_util.tree_unflatten(out_tree, session.run(plan, leaves))
