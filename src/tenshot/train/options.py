"""What every training run can be told, under the names that diffusers' example scripts made customary."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from tenshot.options import Options

Schedule = Literal["constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"]


class LoopOptions(Options):
    """What the loop itself needs, whatever is trained."""

    output_dir: Path = Field(Path("out/train"), description="folder for the result, its checkpoints and its log")
    seed: int = Field(0, description="all noise, timesteps and order follow from it")
    train_batch_size: int = Field(1, ge=1, description="examples in a batch")
    gradient_accumulation_steps: int = Field(1, ge=1, description="batches in an optimizer step")
    max_train_steps: int = Field(800, ge=1, description="optimizer steps in all")
    learning_rate: float = Field(5e-6, gt=0, description="step size of the optimizer")
    lr_scheduler: Schedule = Field("constant", description="course of the learning rate")
    lr_warmup_steps: int = Field(0, ge=0, description="optimizer steps in which the rate rises to its full value")
    lr_num_cycles: int = Field(1, ge=1, description="restarts of cosine_with_restarts")
    lr_power: float = Field(1.0, gt=0, description="exponent of polynomial")
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="AdamW's decay of the first moment")
    adam_beta2: float = Field(0.999, ge=0, lt=1, description="AdamW's decay of the second moment")
    adam_weight_decay: float = Field(1e-2, ge=0, description="AdamW's weight decay")
    adam_epsilon: float = Field(1e-8, gt=0, description="AdamW's epsilon")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are scaled down to this norm")
    mixed_precision: Literal["no", "fp16", "bf16"] = Field(
        "no", description="number format of the forward pass; on a CPU bf16 where it has that, else fp32"
    )
    use_ema: bool = Field(False, description="keep a running average of the weights, and save that")
    ema_decay: float = Field(0.9999, gt=0, lt=1, description="decay of the running average")
    checkpointing_steps: int = Field(500, ge=1, description="optimizer steps between checkpoints")
    checkpoints_total_limit: int | None = Field(2, ge=1, description="how many checkpoints are kept; null: all")


class FineTuneOptions(LoopOptions):
    """What fine-tuning a model on pictures needs besides."""

    pretrained_model_name_or_path: str = Field("pocket", description="pocket, or a folder in the diffusers layout")
    resolution: int | None = Field(None, ge=8, multiple_of=8, description="side in pixels; default: the model's own")
    center_crop: bool = Field(False, description="crop oblong pictures at the centre only, not at both ends too")
    train_text_encoder: bool = Field(False, description="train the text encoder along with the UNet")
    snr_gamma: float | None = Field(None, gt=0, description="min-SNR weighting, usually 5; default: none")
    gradient_checkpointing: bool = Field(False, description="less memory for more time")
    validation_prompt: str | None = Field(None, description="draw this prompt during training")
    num_validation_images: int = Field(4, ge=1, description="pictures drawn each time")
    validation_steps: int | None = Field(None, ge=1, description="optimizer steps between drawings")
    validation_epochs: int = Field(50, ge=1, description="or: rounds through the pictures between drawings")
    report_to: Literal["tensorboard", "none"] = Field("tensorboard", description="where loss and pictures are shown")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, ...")


class DreamBoothOptions(FineTuneOptions):
    """Teach a model one subject from 5-10 pictures."""

    instance_data_dir: Path = Field(description="folder with the pictures of your subject")
    instance_prompt: str = Field(min_length=1, description='names the subject, as in "a photo of az cat"')
    output_dir: Path = Field(Path("out/dreambooth"), description="folder for the result, its checkpoints and its log")
    with_prior_preservation: bool = Field(False, description="keep the class as it was, by class pictures")
    class_prompt: str | None = Field(None, description='the class without the subject, as in "a photo of a cat"')
    class_data_dir: Path | None = Field(None, description="folder of class pictures; missing ones are drawn into it")
    num_class_images: int = Field(100, ge=0, description="class pictures wanted at least")
    prior_loss_weight: float = Field(1.0, ge=0, description="how much class pictures count")
    sample_batch_size: int = Field(8, ge=1, description="class pictures drawn at once")
