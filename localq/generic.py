"""Actors that are classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .actor import Actor, actor


class _BecomesAnActor(type):
    """Leaves an instance in the place of each class that is not abstract, and declares it.

    Nothing less than a metaclass can do that: a class statement gives what its metaclass makes.
    """

    def __new__(cls, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> Any:
        made: Any = super().__new__(cls, name, bases, body)
        if vars(body.get("Meta", object)).get("abstract"):
            return made
        options = _options(made.Meta)
        factory = options.pop("actor", actor)
        instance = made()
        made.__actor__ = factory(instance, **options)
        return instance

    if TYPE_CHECKING:
        def __getattr__(cls, name: str) -> Any: ...  # what a type checker takes for a class is an instance


def _options(meta: type) -> dict[str, Any]:
    names = (name for name in dir(meta) if not name.startswith("_") and name != "abstract")
    return {name: getattr(meta, name) for name in names}


class GenericActor(metaclass=_BecomesAnActor):
    """The base of actors that are classes: override `perform`, and send it messages.

    The name of the subclass then stands for its only instance, which has all attributes of an
    `Actor` as well. An inner class ``Meta`` holds the actor's options, as ``actor`` takes them; with
    ``abstract = True`` the subclass stays a class, whose ``Meta`` its own subclasses inherit; its
    attribute ``actor`` is called in the place of `localq.actor`.
    """

    if TYPE_CHECKING:
        Meta: Any  # so that a subclass may have whatever it likes there

        def __new__(cls, *args: Any, **kwargs: Any) -> Any: ...  # to call it is to call the actor
    else:

        class Meta:
            abstract = True

    __actor__: Actor[Any, Any]

    @property
    def __name__(self) -> str:
        return type(self).__name__  # type: ignore[return-value]  # the metaclass's, not this property

    def __getattr__(self, name: str) -> Any:
        if "__actor__" not in vars(type(self)):  # not declared yet
            raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")
        return getattr(self.__actor__, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run `perform` here."""
        return self.perform(*args, **kwargs)

    def perform(self, *args: Any, **kwargs: Any) -> Any:
        """What a worker runs."""
        raise NotImplementedError(f"{type(self).__name__} does not implement perform()")
