"""What `tenshot serve` is told."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterator
from functools import cached_property
from typing import ClassVar, Literal

from pydantic import Field

from tenshot.core.errors import Fault
from tenshot.core.options import Options
from tenshot.option_types import Device, Few, FilePath, FolderPath, Model, WordPath

KEY = "TENSHOT_API_KEY"  #: of the environment
SHORTEST = 16  # characters of a key


class ServeOptions(Options):
    """Serve models to the programs that people draw with: AUTOMATIC1111's API and OpenAI's images API."""

    words: ClassVar[tuple[str, ...]] = ("model",)
    half_serves: ClassVar[bool] = True

    model: list[Model] = Field(
        ["pocket"],
        min_length=1,
        description="one or more: pocket, model folders, checkpoint files, what compile made, or org/name of the hub",
    )
    lora_dir: list[FolderPath] = Field([], description="whose .safetensors prompts may name: <lora:name:0.8>")
    controlnet_dir: list[FolderPath] = Field(
        [], description="whose ControlNets requests may name: .safetensors files, and diffusers' folders of them"
    )
    embedding: list[WordPath] = Field(
        [], description="a learned word that all models know: a file, diffusers' folder, or org/name of the hub"
    )
    host: str = Field(
        "127.0.0.1", min_length=1, description="the address to listen at; any but this machine's own needs a key"
    )
    port: int = Field(7860, ge=0, le=65535, description="0: any that is free")
    api_key_file: FilePath | None = Field(
        None, description=f"a file with the key that clients must give, of {SHORTEST} characters or more; or ${KEY}"
    )
    allow_host: list[str] = Field([], description="names that clients may call this server by, besides its address")
    device: list[Device] = Field(["auto"], min_length=1, description="auto, cpu, cuda, cuda:1, ...; a process for each")
    precision: Literal["fp32", "fp16", "bf16"] = Field("fp32", description="number format of the nets")
    fallback: bool = Field(False, description="a model compiled for another machine: let torch run it")
    batch_size: Few = Field(4, description="pictures drawn at once, of several requests where they are alike")
    keep_models: int = Field(2, ge=1, le=100, description="in memory; the one not used for longest makes room")
    max_memory: float | None = Field(
        None, gt=0, le=100_000, description="gigabytes of a device's process from which models but that at work leave"
    )
    max_queue: int = Field(100, ge=1, le=100_000, description="pictures that may wait; further requests get 429")
    max_wait: float = Field(600, gt=0, le=86400, description="seconds until a request is given up, with 504")
    max_jobs: int = Field(100, ge=1, le=100_000, description="requests whose answer is fetched later; then 429")
    keep_jobs: float = Field(600, gt=0, le=86400, description="seconds that such an answer is kept")
    max_images: int = Field(16, ge=1, le=1000, description="pictures of one request")
    max_side: int = Field(1536, ge=64, le=16384, description="pixels of a picture's longer side")
    max_steps: int = Field(150, ge=1, le=1000, description="denoising steps")
    max_body: int = Field(64, ge=1, le=4096, description="megabytes of a request, with all its pictures")
    grace: float = Field(30, ge=0, le=3600, description="seconds, after Ctrl-C, to finish what is being drawn")

    def faults(self) -> Iterator[Fault]:
        yield from super().faults()
        if len({*self.device}) < len(self.device):
            yield Fault("--device", "one of them twice", "each once", "a second process would only take memory")
        if not self.loopback and not self.api_key_file and not os.environ.get(KEY):
            found = f"{self.host} is an address that others reach, and there is no key"
            do = f"--api_key_file FILE, or {KEY} in the environment; or leave --host out"
            yield Fault("--host", found, "127.0.0.1, or a key", do)
        for name in self.allow_host:
            if not re.fullmatch(r"[A-Za-z0-9.-]+|\[[0-9a-fA-F:.]+\]", name):
                yield Fault(
                    "--allow_host", f"{name!r} is no name of a host", "a name without port", "studio.example.org"
                )

    @cached_property
    def loopback(self) -> bool:
        """Does nothing but this machine reach it?"""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"
