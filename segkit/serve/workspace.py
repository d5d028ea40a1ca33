"""Everything one client has: images, objects, accepted segmentations. Wiped as a whole."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from segkit.client.codec import Buffer
from segkit.data.volume import Volume
from segkit.serve import nnia
from segkit.serve.annotation import Annotation, Encoded, Update
from segkit.serve.clips import Clip, rebuild_clip
from segkit.serve.faults import Refusal, bad, gone, unknown
from segkit.serve.images import Image, decode_any, rebuild
from segkit.serve.memory import give_back
from segkit.serve.messages import Drawing, Prompt, read_prompt
from segkit.serve.residents import Resident, Residents, interactive
from segkit.serve.settings import Limits
from segkit.serve.state import Event, Journal


@dataclass(slots=True, eq=False)
class Object:
    """One object being segmented on one image by one version of a model."""

    id: str
    image_id: str
    resident: Resident
    annotation: Annotation
    is_stale: bool = False  # restored: what the client shows is not known here yet
    noted: int = 0  # actions in the journal that have not been taken back


@dataclass(slots=True, eq=False)
class Correction:
    """A segmentation a person calls right: packed bits on the grid of its image."""

    image_id: str
    bits: np.ndarray
    tag: str = "final"


@dataclass(slots=True, eq=False)
class Workspace:
    """State of one client. Methods that compute run on the thread of the device."""

    residents: Residents
    limits: Limits
    temporary: Path
    journal: Journal | None = None
    images: dict[str, Image] = field(default_factory=dict)
    objects: dict[str, Object] = field(default_factory=dict)
    corrections: dict[str, Correction] = field(default_factory=dict)
    clips: dict[str, Clip] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    _encoded: dict[tuple[str, str], Encoded] = field(default_factory=dict)
    _ahead: list[tuple[Encoded, int]] = field(default_factory=list)

    @property
    def n_bytes(self) -> int:
        """Memory of images and masks."""
        # copies: the thread of the device may add and drop meanwhile
        images = sum(one.n_bytes for one in list(self.images.values()))
        clips = sum(one.n_bytes for one in list(self.clips.values()))
        return images + clips + sum(one.bits.nbytes for one in list(self.corrections.values()))

    def add_image(self, image: Image, image_id: str | None = None) -> str:
        """Keep an image under a new id, or in place of the one that has the given id."""
        if image_id in self.images:
            self.drop_image(str(image_id))
        if len(self.images) >= self.limits.volumes:
            raise bad(f"at most {self.limits.volumes} images are kept; delete one", "too_many")
        name = image_id or secrets.token_hex(16)
        self._note({"op": "image", "id": name, "about": image.about}, image.payload)
        image.payload = b""
        self.images[name] = image
        return name

    def image(self, image_id: str) -> Image:
        """Image by id.

        Raises:
            Refusal: 404; this client has none of that id.
        """
        if image_id not in self.images:
            raise unknown("image")
        return self.images[image_id]

    def drop_image(self, image_id: str) -> None:
        """Overwrite and forget an image with all objects on it."""
        image = self.image(image_id)
        for item in [one for one in self.objects.values() if one.image_id == image_id]:
            self.close(item.id)
        for key in [key for key, one in self.corrections.items() if one.image_id == image_id]:
            self.corrections.pop(key).bits.fill(0)
        for place in [place for place in self._encoded if place[0] == image_id]:
            del self._encoded[place]
        self._ahead.clear()
        image.wipe()
        del self.images[image_id], image
        give_back()
        self._note({"op": "drop", "id": image_id})

    def add_clip(self, clip: Clip) -> str:
        """Keep a sequence of frames under a new id."""
        if len(self.clips) >= self.limits.volumes:
            raise bad(f"at most {self.limits.volumes} clips are kept; delete one", "too_many")
        name = secrets.token_hex(16)
        self._note({"op": "clip", "id": name, "about": clip.about}, clip.payload)
        clip.payload = b""
        self.clips[name] = clip
        return name

    def clip(self, clip_id: str) -> Clip:
        """Sequence by id.

        Raises:
            Refusal: 404; this client has none of that id.
        """
        if clip_id not in self.clips:
            raise unknown("clip")
        return self.clips[clip_id]

    def drop_clip(self, clip_id: str) -> None:
        """Overwrite and forget a sequence."""
        self.clip(clip_id).wipe()
        del self.clips[clip_id]
        self._note({"op": "drop-clip", "id": clip_id})

    def encoded(self, image_id: str, resident: Resident) -> Encoded:
        """Image as one version of a model sees it; embeddings are computed once for all objects."""
        place = (image_id, resident.id)
        if place not in self._encoded:
            image = self.image(image_id)
            predictor = interactive(resident).predictor(is_picture=image.is_picture)
            self._encoded[place] = Encoded(image.source, predictor)
        return self._encoded[place]

    def open(
        self, image_id: str, model: str | None, name: str, object_id: str | None = None
    ) -> Object:
        """Start an object."""
        if len(self.objects) >= self.limits.sessions:
            raise bad(f"at most {self.limits.sessions} objects are kept; close one", "too_many")
        resident = self.residents.find(model or self.residents.interactive)
        key = object_id or secrets.token_hex(16)
        annotation = Annotation(self.encoded(image_id, resident), key, name)
        item = Object(key, image_id, resident, annotation)
        self.objects[item.id] = item
        about = {"image": image_id, "model": resident.id, "name": name}
        self._note({"op": "open", "id": item.id, **about})
        return item

    def item(self, object_id: str) -> Object:
        """Object by id.

        Raises:
            Refusal: 404; this client has none of that id.
        """
        if object_id not in self.objects:
            raise unknown("session")
        return self.objects[object_id]

    def close(self, object_id: str) -> None:
        """Overwrite and forget an object."""
        self.item(object_id).annotation.wipe()
        del self.objects[object_id]
        self._note({"op": "close", "id": object_id})

    def prompt(self, item: Object, prompt: Prompt, drawn: np.ndarray | None = None) -> None:
        """Give a prompt to an object; `render` computes."""
        self.refresh(item)
        item.annotation.add(prompt, drawn)
        event: Event = {"op": "prompt", "id": item.id, "prompt": prompt.model_dump(mode="json")}
        self._note(event, nnia.pack(drawn) if drawn is not None else None)
        item.noted = item.annotation.count

    def act(self, item: Object, action: str) -> bool:
        """Undo, redo or reset; says whether there was anything to do."""
        self.refresh(item)
        annotation = item.annotation
        if action == "reset":
            has_run = annotation.count > 0
            annotation.session.reset()
        else:
            has_run = annotation.undo() if action == "undo" else annotation.redo()
        self._note({"op": action, "id": item.id})
        item.noted = annotation.count
        return has_run

    def render(self, item: Object) -> Update:
        """Compute what an object looks like; what is called off half-way is gone.

        Raises:
            Cancelled: The task was called off.
        """
        try:
            update = item.annotation.render()
            if update.box is not None:
                encoded = self.encoded(item.image_id, item.resident)
                self._ahead = [(encoded, one) for one in item.annotation.around(update.box)]
            return update
        finally:
            if (count := item.annotation.count) < item.noted:
                self._note({"op": "keep", "id": item.id, "count": count})
                item.noted = count

    def refresh(self, item: Object) -> None:
        """Compute what a client of a restored object has on its screen."""
        if item.is_stale:
            item.is_stale = False
            self.render(item)

    def look_ahead(self) -> bool:
        """Encode one slice that may be marked next; false if nothing is left to do."""
        while self._ahead:
            encoded, index = self._ahead.pop(0)
            if encoded.prepare(index):
                return True
        return False

    def accept(self, image_id: str, mask: np.ndarray, tag: str = "final") -> str:
        """Keep a segmentation that a person calls right, to learn from it."""
        image = self.image(image_id)
        if mask.shape != image.shape:
            raise bad(f"the mask has shape {mask.shape}, its image {image.shape}", "bad_shape")
        key = secrets.token_hex(16)
        bits = np.packbits(mask != 0)
        self._keep_correction(key, Correction(image_id, bits, tag))
        self._note({"op": "accept", "id": key, "image": image_id, "tag": tag}, bits.tobytes())
        return key

    def corrected(self, key: str) -> np.ndarray:
        """Mask of a correction, bool on the grid of its image."""
        if key not in self.corrections:
            raise unknown("label")
        found = self.corrections[key]
        shape = self.image(found.image_id).shape
        count = int(np.prod(shape))
        return np.unpackbits(found.bits, count=count).view(np.bool_).reshape(shape)

    def remember(self, **notes: object) -> None:
        """Keep small facts of a protocol."""
        self.notes.update(notes)
        self._note({"op": "notes", "notes": notes})

    def mask_volume(self, item: Object) -> Volume:
        """Mask of an object as a volume, to measure it."""
        source = item.annotation.source
        if not isinstance(source, Volume):
            raise bad("a picture has no third axis; nothing can be measured", "not_a_volume")
        names: Mapping[int, str] = {1: item.annotation.name}
        return Volume(item.annotation.mask().view(np.uint8), source.geometry, labels=names)

    def wipe(self) -> None:
        """Overwrite everything in memory; what is on disk stays."""
        for item in self.objects.values():
            item.annotation.wipe()
        for image in self.images.values():
            image.wipe()
        for clip in self.clips.values():
            clip.wipe()
        for correction in self.corrections.values():
            correction.bits.fill(0)
        parts = (self.objects, self.images, self.clips, self.corrections, self.notes)
        for part in (*parts, self._encoded):
            part.clear()
        self._ahead.clear()
        give_back()

    def replay(self, journal: Journal) -> None:
        """Bring back what a journal holds, action by action.

        Raises:
            Refusal: 410; something is missing, for example the version of the model.
        """
        try:
            for event in journal.events():
                self._redo(event, journal)
        except (OSError, KeyError, ValueError, Refusal) as error:
            self.wipe()
            raise gone(
                "the work of this session could not be restored; open the image again"
            ) from (error)
        self.journal = journal
        for item in self.objects.values():
            item.is_stale, item.noted = True, item.annotation.count

    def _redo(self, event: Event, journal: Journal) -> None:
        match event["op"]:
            case "image":
                data = journal.payload(event) or b""
                limit = self.limits.array
                image = rebuild(data, event["about"], self.temporary, max_bytes=limit)
                image.payload = b""
                self.images[event["id"]] = image
            case "drop":
                self.drop_image(event["id"])
            case "clip":
                data = journal.payload(event) or b""
                limit = self.limits.array
                clip = rebuild_clip(data, event["about"], self.temporary, max_bytes=limit)
                clip.payload = b""
                self.clips[event["id"]] = clip
            case "drop-clip":
                self.drop_clip(event["id"])
            case "open":
                self.open(event["image"], event["model"], event["name"], event["id"])
            case "close":
                self.close(event["id"])
            case "prompt":
                self._redo_prompt(event, journal)
            case "undo" | "redo" | "reset":
                self.act(self.item(event["id"]), event["op"])
            case "keep":
                self.item(event["id"]).annotation.keep(event["count"])
            case "accept":
                bits = np.frombuffer(journal.payload(event) or b"", np.uint8).copy()
                self._keep_correction(event["id"], Correction(event["image"], bits, event["tag"]))
            case "notes":
                self.notes.update(event["notes"])

    def _keep_correction(self, key: str, new: Correction) -> None:
        """Keep one for each image and tag: the newest."""
        place = (new.image_id, new.tag)
        for old in [k for k, c in self.corrections.items() if (c.image_id, c.tag) == place]:
            self.corrections.pop(old).bits.fill(0)
        self.corrections[key] = new

    def _redo_prompt(self, event: Event, journal: Journal) -> None:
        prompt, data = read_prompt(event["prompt"]), journal.payload(event)
        drawn = None if data is None else decode_any(data, max_bytes=self.limits.array)
        if isinstance(prompt, Drawing) and drawn is None:
            raise KeyError("payload")
        self.item(event["id"]).annotation.add(prompt, drawn)

    def _note(self, event: Event, payload: Buffer | None = None) -> None:
        if self.journal is not None:
            # the journal writes later: what it gets must not change any more
            self.journal.append(event, payload)
