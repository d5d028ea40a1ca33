"""Work that takes longer than a mark: whole volumes, and learning from what was corrected."""

from typing import TYPE_CHECKING, Any

import numpy as np

from .controller import Controller, State
from .link import Link, Stamp
from .marks import SceneError, Target

if TYPE_CHECKING:
    from .scene import Scene


class Jobs:
    """Long work through a controller; results come when it polls."""

    def __init__(self, controller: Controller, scene: "Scene") -> None:
        self._controller, self._scene = controller, scene

    def segment_all(self, volume_id: str, segmentation_id: str, model: str) -> None:
        """Run an automatic model; its labels become new segments."""
        found = next((one for one in self._controller.models if one["name"] == model), None)
        labels = {} if found is None else found["labels"]
        names = {int(value): str(name) for value, name in labels.items()}

        def done(labels: np.ndarray) -> None:
            added = self._scene.write_labels(volume_id, segmentation_id, labels, names)
            self._controller.turn(State.READY, f"{model}: {len(added)} segments added")

        def work(link: Link, stamp: Stamp, image: Any) -> np.ndarray:
            return link.segment(stamp, image, model, self._controller.step)

        self._controller.with_image(volume_id, work, done, f"{model} segments the volume")

    def accept(self, target: Target) -> None:
        """Call a segment right, as it is in the scene, so that the server may learn from it."""
        try:
            self._scene.prepare(target)
            mask = self._scene.mask(target)
        except SceneError as error:
            self._controller.tell(error)
            return

        def work(link: Link, stamp: Stamp, image: Any) -> str:
            return link.accept(stamp, image, self._controller.model, mask)

        def done(_: str) -> None:
            self._controller.turn(State.READY, "the server may learn from this segment")

        self._controller.with_image(target.volume, work, done, "sending the segment")

    def learn(self, seconds: float) -> None:
        """Let the server learn a new version of the chosen model from accepted segments."""

        def done(outcome: dict[str, Any]) -> None:
            helped = (
                "is used from now on" if outcome.get("has_helped") else "is no better: not used"
            )
            self._controller.turn(
                State.READY, f"version {outcome['version']} of {self._controller.model} {helped}"
            )

        def work(link: Link) -> dict[str, Any]:
            outcome = link.remote.learn(
                self._controller.model, seconds=seconds, progress=self._controller.step
            )
            return dict(outcome)

        self._controller.change_model(work, done, f"{self._controller.model} learns")

    def choose(self, version: int) -> None:
        """Use another version of the chosen model; 0 is the one the server was started with."""

        def done(_: object) -> None:
            self._controller.turn(State.READY, f"{self._controller.model} is at version {version}")

        def work(link: Link) -> None:
            link.remote.choose(self._controller.model, version)

        self._controller.change_model(work, done, "changing the version")
