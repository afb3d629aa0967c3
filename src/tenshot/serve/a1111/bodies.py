"""What clients of AUTOMATIC1111's API send."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Count = Annotated[int, Field(ge=1, le=1000)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Text = Annotated[str, BeforeValidator(lambda value: "" if value is None else value)]
UNNAMED = ("", "None", "null")  #: of samplers: the usual one


class Text2Image(BaseModel):
    """A prompt in, pictures out. Options that are left out are those of the model."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False, protected_namespaces=())

    prompt: Text = ""
    negative_prompt: Text = ""
    seed: Seed | None = -1
    subseed: Seed | None = -1
    subseed_strength: float | None = 0
    sampler_name: str | None = None
    sampler_index: str | None = Field(None, description="older clients' name of sampler_name")
    scheduler: str | None = None
    batch_size: Count | None = 1
    n_iter: Count | None = 1
    steps: int | None = 20
    cfg_scale: float | None = 7
    width: int | None = None
    height: int | None = None
    enable_hr: bool | None = Field(False, description="drawn once more, larger")
    denoising_strength: float | None = Field(None, description="of the second pass; of a picture to begin with")
    hr_scale: float | None = 2
    hr_upscaler: str | None = None
    hr_second_pass_steps: int | None = 0
    hr_resize_x: int | None = 0
    hr_resize_y: int | None = 0
    override_settings: dict[str, Any] | None = None
    override_settings_restore_afterwards: bool | None = True
    alwayson_scripts: dict[str, Any] | None = None
    send_images: bool | None = True
    force_task_id: str | None = Field(None, max_length=200)

    begun: ClassVar[bool] = False

    @property
    def count(self) -> int:
        return (self.batch_size or 1) * (self.n_iter or 1)

    @property
    def sampler(self) -> str | None:
        named = [each for each in (self.sampler_name, self.sampler_index) if each and each not in UNNAMED]
        return named[0] if named else None


class Image2Image(Text2Image):
    """A prompt and a picture in, pictures out."""

    init_images: list[str] = []
    resize_mode: Literal[0, 1, 2, 3] | None = 0
    denoising_strength: float | None = 0.75
    mask: str | None = None
    mask_blur: float | None = None
    mask_blur_x: float | None = None
    mask_blur_y: float | None = None
    inpainting_fill: Literal[0, 1, 2, 3] | None = 1
    inpaint_full_res: bool | None = True
    inpaint_full_res_padding: int | None = 0
    inpainting_mask_invert: int | None = 0
    include_init_images: bool | None = False

    begun: ClassVar[bool] = True
