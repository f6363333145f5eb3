"""What users call: ``private``, ``share``, ``seal``, ``reveal``, ``explain``."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from comet_jax.calibration import Calibration
from comet_jax.calibration import calibrate as calibrate_private
from comet_jax.errors import CometError
from comet_jax.frontend import flax as frontend
from comet_jax.frontend.call import Call
from comet_jax.frontend.flax import Private, PrivateInstance
from comet_jax.ir.variant import DEALT
from comet_jax.passes.explain import Explanation, Link
from comet_jax.passes.explain import explain as explain_lowered
from comet_jax.passes.variants import SPEED, priced
from comet_jax.policy import Policy
from comet_jax.runtime.plan import Plan
from comet_jax.runtime.secret import Secret, Shares, is_secret
from comet_jax.runtime.session import Session, check_owner, current


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
    """``tree`` (a pytree of arrays, or an nnx module) as secrets of the role ``owner``: "client" or "model".

    In a connected session only the owner needs the values: others may pass ``jax.ShapeDtypeStruct``. Numbers are
    checked and encoded when a private function first uses them. Raises ``CometError`` outside a session, for another
    role, and for arrays that hold no numbers.
    """
    session = current()
    check_owner(owner, "nothing can be shared by")
    if isinstance(tree, nnx.Module):
        return frontend.share_module(tree, lambda x: _shared(x, owner, session))
    return jax.tree.map(lambda x: _shared(x, owner, session), tree, is_leaf=is_secret)


def _shared(x: Any, owner: str, session: Session) -> Secret:
    if isinstance(x, Secret):
        raise CometError(f"{x!r} is secret already")
    abstract = isinstance(x, jax.ShapeDtypeStruct)
    if abstract and session.holds(owner):
        raise CometError(f"{owner} is played by this process, so share() needs its values, not shapes")
    given = x.dtype if hasattr(x, "dtype") else np.asarray(x).dtype
    if not any(jnp.issubdtype(given, kind) for kind in (np.floating, np.integer, np.bool_)):
        raise CometError(f"an array of type {given} cannot be shared: real numbers, integers and booleans can")
    # The type that the same array has in JAX: 32 bits, unless 64-bit types are switched on.
    dtype = jax.dtypes.canonicalize_dtype(given)
    value = None
    if not abstract and session.holds(owner):
        before, value = np.asarray(x), np.asarray(x).astype(dtype)
        if dtype.kind in "iu" and not np.array_equal(before, value):
            raise CometError(f"{given}{list(value.shape)} of {owner} holds an integer that {dtype} cannot hold")
    return Secret(tuple(np.shape(x)), dtype, owner, session, value)


def seal(secret: Any, policy: Policy | None = None) -> Secret:
    """A shared real array as shares from here on.

    What depends on one owner's secrets alone, that owner computes in the clear before sharing. A sealed value is
    nobody's: every operation on it runs between the parties, as on the result of an earlier private call.

    Of a shape (``jax.ShapeDtypeStruct``) it makes a sealed value that exists nowhere, for ``explain``; that needs no
    session.
    """
    policy = policy or Policy()
    if isinstance(secret, jax.ShapeDtypeStruct):
        dtype = _real(secret, np.dtype(secret.dtype))
        payload = Shares(2.0**policy.numbers.raw, policy.ring, None, None, has_centred=True)
        return Secret(tuple(secret.shape), dtype, None, None, payload)
    if not isinstance(secret, Secret) or secret.owner is None:
        raise CometError(f"seal() takes a secret that share() made, not {_kind(secret)}")
    session = current()
    _check_session(secret, session)
    _real(secret, secret.dtype)
    return session.seal(secret, policy)


def _real(x: Any, dtype: np.dtype) -> np.dtype:
    if not jnp.issubdtype(dtype, np.floating):
        raise CometError(f"{x!r} holds no real numbers: only those can be sealed")
    return dtype


def _kind(x: Any) -> str:
    # Not the value itself: it may be what was meant to be secret.
    return repr(x) if isinstance(x, Secret) else f"a {type(x).__name__}"


def reveal(tree: Any, to: str = "client") -> Any:
    """The values of the secrets in ``tree``, for the role ``to``; None in processes that play other roles.

    Parties compare their records of the whole run before anything is revealed. A result may go to any owner that the
    caller names; an input only back to its own.
    """
    leaves, treedef = jax.tree.flatten(tree, is_leaf=is_secret)
    secret = [x for x in leaves if is_secret(x)]
    if not secret:
        return tree
    session = current()
    for x in secret:
        _check_session(x, session)
    values = iter(session.reveal(secret, to))
    return jax.tree.unflatten(treedef, [next(values) if is_secret(x) else x for x in leaves])


def _check_session(x: Secret, session: Session) -> None:
    if x.session is None:
        raise CometError(f"{x!r} was made from a shape, for explain(): there is no value")
    if x.session is not session:
        raise CometError(f"{x!r} belongs to another session: share it again in this one")


def explain(fn: Any, *args: Any, policy: Policy | None = None, **kwargs: Any) -> Explanation:
    """What a private call would cost and reveal, by operation; nothing is run.

    ``fn`` is private or not yet; ``policy``, if given, replaces its own. Arguments are secrets, public arrays, or
    shapes (``jax.ShapeDtypeStruct``), which count as secrets: of "model" in the first argument, of "client" in later
    ones. ``seal(shape)`` stands for a value that nobody knows.
    """
    if isinstance(fn, type):
        raise CometError(f"explain() takes {fn.__name__}(...).apply, an instance or a function, not a class")
    fn = _under(fn, policy)
    traced = fn.trace(*args, **kwargs)
    uncalibrated = replace(traced, policy=replace(traced.policy, ranges=None)).lower() if traced.policy.ranges else None
    first = traced.lower()
    return explain_lowered(first, uncalibrated, [traced.lower(call) for call in range(1, first.epoch)])


def fastest(
    fn: Any,
    *args: Any,
    link: Link,
    policy: Policy | None = None,
    dealt: float = DEALT,
    speed: float = SPEED,
    **kwargs: Any,
) -> Policy:
    """The policy of ``fn`` with the variant that is fastest on ``link``, the parties' connection; nothing is run.

    Variants do the same by other protocols: fewer rounds and bytes online for more dealt ahead of time. Gates that do
    not pay on this link are left out. ``dealt``: what a dealt byte counts of one that is sent online. ``speed``: ring
    products a second of a party. Of an epoch its calls count on average. Arguments are as for ``explain``, which shows
    the variant in use.
    """
    traced = _under(fn, policy).trace(*args, **kwargs)
    candidates = priced(lambda p, call: replace(traced, policy=p).lower(call), traced.policy, link, dealt, speed)
    return min(candidates, key=lambda p: p.cost).policy


def calibrate(
    fn: Any, *examples: tuple, policy: Policy | None = None, margin: float = 2.0, tolerance: float = 0.02
) -> Calibration:
    """A policy for ``fn`` from examples: its ``.policy`` has a scale for every wire, as its values need.

    ``examples``: tuples of arguments, with values; they are computed on in the clear, here. Arrays count as secrets,
    unless some are marked so by ``share``. ``margin``: how much larger values may get than on the examples.
    ``tolerance``: the error allowed on the first examples, as a part of the largest result: with more, or if a value
    does not fit, the policy is for the 64-bit ring, and ``.refused`` says which value is to blame. Raises
    ``CometError`` where not even that holds the model.

    Ranges are public: parties learn, to a power of two, how large each activation got on the examples.
    """
    fn = _under(fn, policy)
    return calibrate_private(fn, examples, fn.policy, margin=margin, tolerance=tolerance)


def _under(fn: Any, policy: Policy | None) -> Private:
    """``fn``, private or not yet, as a private function; ``policy``, if given, replaces its own."""
    if isinstance(fn, PrivateInstance):
        fn = fn.apply
    if isinstance(fn, Private):
        return fn if policy is None else fn.under(policy)
    fn = private(fn, policy=policy)
    return fn.apply if isinstance(fn, PrivateInstance) else fn


def plan_for(call: Call, plans: dict[Any, tuple[Plan, Any]]) -> tuple[Plan, Any]:
    """The plan of a call and the tree of its results. ``plans`` caches."""
    key = call.key
    if key not in plans:
        traced = call.trace()
        plans[key] = (Plan(traced.lower(), traced.lower), traced.out_tree)
    return plans[key]


def _execute(fn: Private, args: tuple, kwargs: dict[str, Any]) -> Any:
    session, call = current(), fn.call(args, kwargs)
    for x in call.arrays:
        if isinstance(x, Secret):
            _check_session(x, session)
        elif isinstance(x, jax.ShapeDtypeStruct):
            raise CometError(f"an argument is a shape, {x}: share() it first; shapes alone are for explain()")
    plan, out_tree = plan_for(call, session.plans)
    return jax.tree_util.tree_unflatten(out_tree, session.run(plan, call.arrays))
