"""A running ComfyUI, asked by its own API for pictures by the workflow that ships."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent
NODE = ROOT / "integrations/comfyui"
POCKET = ROOT / "src/tenshot/assets/pocket"
BACK = "Tenshot: ComfyUI's own UNet draws"
PROMPT, NEGATIVE = "a 3d emoji of a cat on a blue background", "a car"
STEPS, GUIDANCE, SEED = 12, 5.0, 3


@dataclass
class Picture:
    """pixels: 0..255. said: what the log had to say meanwhile."""

    pixels: np.ndarray
    said: str

    @property
    def backs(self) -> list[str]:
        return [line for line in self.said.splitlines() if BACK in line]


@dataclass
class ComfyUI:
    """A running one. address: of its API. log: what it writes. steps: in which it draws."""

    address: str
    log: Path
    folder: Path
    steps: int = STEPS

    def draw(self, **changes: object) -> Picture:
        """By the shipped workflow. What `workflow` does not know is an input of a node, NODE__INPUT."""
        before = self.log.stat().st_size
        asked = self.call("/prompt", {"prompt": workflow(**{"sampler__steps": self.steps} | changes)})["prompt_id"]
        while not (found := self.call(f"/history/{asked}")):
            time.sleep(0.1)
        status = found[asked]["status"]
        if status["status_str"] != "success":
            raise SystemExit(json.dumps(status, indent=1))
        cached = next((told["nodes"] for name, told in status["messages"] if name == "execution_cached"), [])
        assert "sampler" not in cached, "ComfyUI drew nothing"
        image = found[asked]["outputs"]["saved"]["images"][0]
        pixels = np.asarray(Image.open(self.folder / "output" / image["filename"]).convert("RGB")).astype(float)
        return Picture(pixels, self.log.read_bytes()[before:].decode())

    def call(self, path: str, body: Mapping[str, object] | None = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        with urlopen(Request(self.address + path, data, {"Content-Type": "application/json"}), timeout=300) as answer:
            return json.load(answer)


def workflow(
    node: bool = True,
    lora: tuple[str, float] = ("a", 0.0),
    control: float = 0.0,
    compare: bool = False,
    hook: str = "",
    more: Mapping[str, object] | None = None,
    **inputs: object,
) -> dict[str, Any]:
    """The one that ships, with the files and settings of this test. control: how strong. more: nodes, in order.

    compare: every call with ComfyUI's own. hook: a LoRA that comes by a hook.
    """
    graph = json.loads((NODE / "workflow.json").read_text())
    told = {
        "checkpoint__ckpt_name": "model.safetensors",
        "lora__lora_name": f"{lora[0]}.safetensors",
        "lora__strength_model": lora[1],
        "lora__strength_clip": lora[1],
        "tenshot__artifact": "fast",
        "controlnet__control_net_name": "edges.safetensors",
        "controlled__strength": control,
        "positive__text": PROMPT,
        "negative__text": NEGATIVE,
        "latents__width": 128,
        "latents__height": 128,
        "sampler__steps": STEPS,
        "sampler__cfg": GUIDANCE,
        "sampler__seed": SEED,
    }
    for name, value in (told | inputs).items():
        part, _, key = name.partition("__")
        graph[part]["inputs"][key] = value
    if compare:
        graph["compare"] = {"class_type": "TestsCompare", "inputs": {"model": ["lora", 0]}}
        graph["tenshot"]["inputs"]["model"] = ["compare", 0]
    if hook:
        told = {"lora_name": f"{hook}.safetensors", "strength_model": 0.3, "strength_clip": 0.0}
        graph["hook"] = {"class_type": "CreateHookLora", "inputs": told}
        told = {"clip": ["lora", 1], "hooks": ["hook", 0], "apply_to_conds": True, "schedule_clip": False}
        graph["hooked"] = {"class_type": "SetClipHooks", "inputs": told}
        graph["positive"]["inputs"]["clip"] = ["hooked", 0]
    if not node:
        del graph["tenshot"]
        graph["sampler"]["inputs"]["model"] = ["lora", 0]
    for kind, settings in (more or {}).items():
        graph[kind] = {"class_type": kind, "inputs": {"model": graph["sampler"]["inputs"]["model"], **settings}}
        graph["sampler"]["inputs"]["model"] = [kind, 0]
    return graph


@contextmanager
def serving(checkout: Path, python: str, folder: Path, **environment: str) -> Iterator[ComfyUI]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [python, "main.py", "--cpu", "--port", str(port), "--base-directory", folder, "--disable-api-nodes"]
    words += ["--front-end-root", folder / "page", "--database-url", f"sqlite:///{folder}/comfyui.db"]
    log = folder / f"comfyui{'-auto' if environment else ''}.log"
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    told = {
        "PYTHONPATH": paths,
        "TENSHOT_TESTS_POCKET": str(POCKET),
        "TENSHOT_TESTS_NOTES": str(folder / "notes.jsonl"),
    }
    with log.open("w") as file:
        program = subprocess.Popen(
            words, cwd=checkout, env=os.environ | told | environment, stdout=file, stderr=subprocess.STDOUT
        )
        try:
            found = ComfyUI(f"http://127.0.0.1:{port}", log, folder)
            while True:
                if program.poll() is not None:
                    raise SystemExit(f"{log.read_text()[-3000:]}\nexit code {program.returncode}")
                try:
                    found.call("/system_stats")
                    break
                except OSError:
                    time.sleep(0.5)
            yield found
        finally:
            program.terminate()
            program.wait()
