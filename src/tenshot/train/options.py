"""What every training run can be told, under the names that diffusers' example scripts made customary."""

from __future__ import annotations

import shlex
from collections.abc import Container, Iterator, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from os.path import isdir
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from tenshot import next_commands
from tenshot.core.errors import Fault, faults_of
from tenshot.core.option_markers import Elsewhere
from tenshot.core.option_text import command
from tenshot.core.options import Options
from tenshot.export.options import ExportOptions
from tenshot.io import destinations
from tenshot.option_types import POCKET, Device, Few, FolderPath, LoraFile, Model, Rank, VaePath, WordPath
from tenshot.train import script_options
from tenshot.train.engine.early_stopping import EARLIEST

Schedule = Literal["constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"]
Optimizer = Literal["adamw", "adamw8bit", "adafactor", "lion", "prodigy", "schedulefree"]
Loss = Literal["l2", "huber", "smooth_l1"]
Weighting = Literal["none", "logit_normal", "mode", "sigma_sqrt", "cosmap"]
Tracker = Literal["tensorboard", "wandb", "trackio", "none"]
Layers = Literal["attention", "transformer", "all"]
Word = Annotated[str, Field(min_length=1)]
PICTURES = ("instance_data_dir", "train_data_dir")  # options that name the folder of what is learned
RATE = "step size of the optimizer; where none is given, small models and SD3 have their own"
MOST_STEPS, MOST_PIXELS = 100_000_000, 4096


class LoopOptions(Options):
    """What the loop itself needs, whatever is trained."""

    output_dir: Path = Field(Path("out/train"), description="folder for the result, its checkpoints and its log")
    seed: int = Field(0, ge=0, lt=2**62, description="all noise, timesteps and order follow from it")
    train_batch_size: int = Field(1, ge=1, le=4096, description="examples in a batch")
    gradient_accumulation_steps: int = Field(1, ge=1, le=65_536, description="batches in an optimizer step")
    max_train_steps: int = Field(800, ge=1, le=MOST_STEPS, description="optimizer steps in all")
    stop_when_learned: bool = Field(
        False, description="stop earlier, once the loss on fixed inputs lies still and drawings show your pictures"
    )
    learning_rate: float = Field(5e-6, gt=0, le=100, description=RATE)
    lr_scheduler: Schedule = Field("constant", description="course of the learning rate")
    lr_warmup_steps: int = Field(
        0, ge=0, le=MOST_STEPS, description="optimizer steps in which the rate rises to its full value"
    )
    lr_num_cycles: int = Field(1, ge=1, le=1_000_000, description="restarts of cosine_with_restarts")
    lr_power: float = Field(1.0, gt=0, le=100, description="exponent of polynomial")
    optimizer: Optimizer = Field("adamw", description="how gradients become steps")
    use_8bit_adam: bool = Field(False, description="the same as --optimizer adamw8bit")
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="decay of the first moment")
    adam_beta2: float = Field(0.999, ge=0, lt=1, description="decay of the second moment")
    adam_weight_decay: float = Field(1e-2, ge=0, le=100, description="weight decay, decoupled from the gradient")
    adam_epsilon: float = Field(1e-8, gt=0, le=1, description="what keeps the division by the second moment finite")
    max_grad_norm: float = Field(1.0, gt=0, le=1e9, description="gradients are scaled down to this norm")
    mixed_precision: Literal["no", "fp16", "bf16"] | None = Field(
        None, description="number format of the forward pass; default: bf16 or fp16 on a GPU, else no (fp32)"
    )
    torch_compile: bool = Field(False, description="compile the denoiser for its training steps (torch.compile)")
    torch_compile_backend: str = Field("inductor", min_length=1, description="of torch.compile, by torch's names")
    use_ema: bool = Field(False, description="keep a running average of the weights, and save that")
    ema_decay: float = Field(0.9999, gt=0, lt=1, description="decay of the running average")
    checkpointing_steps: int = Field(500, ge=1, le=MOST_STEPS, description="optimizer steps between checkpoints")
    checkpoints_total_limit: int | None = Field(
        2, ge=1, le=1_000_000, description="how many checkpoints are kept; null: all"
    )

    def obstacles(self) -> Iterator[Fault]:
        if hurdle := destinations.obstacle(self.output_dir):
            yield Fault(f"--output_dir {self.output_dir}", hurdle, "a folder", "name another folder")


class PictureOptions(Options):
    """Pictures and captions."""

    center_crop: bool = Field(False, description="crop oblong pictures at the centre only, not at both ends too")
    random_flip: bool = Field(False, description="learn every picture mirrored, too")
    aspect_ratio_buckets: bool = Field(False, description="keep oblong pictures oblong, grouped by shape")
    bucket_step: int | None = Field(
        None,
        ge=8,
        le=MOST_PIXELS,
        multiple_of=8,
        description="sides of the shapes are multiples of this, pixels; default: by the side",
    )
    mask_dir: FolderPath | None = Field(None, description="folder of masks by the pictures' names: white is learned")
    caption_column: str = Field("text", min_length=1, description="of metadata.jsonl or metadata.csv")
    proportion_empty_prompts: float = Field(0.0, ge=0, le=1, description="share of captions left out")
    shuffle_tags: bool = Field(False, description="mix the order of a caption's comma-separated parts")
    keep_tags: int = Field(1, ge=0, le=10_000, description="how many parts keep their place at the front")


class ClassOptions(Options):
    """Prior preservation."""

    with_prior_preservation: bool = Field(False, description="keep the class as it was, by class pictures")
    class_prompt: str | None = Field(None, description='the class without the subject, as in "a photo of a cat"')
    class_data_dir: Path | None = Field(None, description="folder of class pictures; missing ones are drawn into it")
    num_class_images: int = Field(100, ge=0, le=1_000_000, description="class pictures wanted at least")
    prior_loss_weight: float = Field(1.0, ge=0, le=1e6, description="how much class pictures count")
    sample_batch_size: Few = Field(8, description="class pictures drawn at once")


class ObjectiveOptions(Options):
    """Noise and loss."""

    snr_gamma: float | None = Field(None, gt=0, le=1e6, description="min-SNR weighting, usually 5; default: none")
    noise_offset: float = Field(0.0, ge=0, le=100, description="shift the noise of whole channels, usually 0.05 to 0.1")
    loss_type: Loss = Field("l2", description="how an error counts")
    huber_c: float = Field(0.1, gt=0, le=1e6, description="the error above which huber and smooth_l1 grow linearly")
    weighting_scheme: Weighting = Field(
        "logit_normal", description="of a rectified flow: how times are drawn, or how much they count"
    )
    logit_mean: float = Field(0.0, ge=-100, le=100, description="of logit_normal: below 0 less noise, above 0 more")
    logit_std: float = Field(1.0, gt=0, le=100, description="of logit_normal: how far times are spread")
    mode_scale: float = Field(1.29, ge=-1, le=1.75, description="of mode: how much times in the middle are preferred")
    rescale_betas_zero_snr: bool = Field(False, description="end the schedule in pure noise; v-prediction only")


class WatchOptions(Options):
    """Watching."""

    validation_prompt: str | None = Field(None, description="draw this prompt during training")
    num_validation_images: Few = Field(4, description="pictures drawn each time")
    validation_steps: int | None = Field(None, ge=1, le=MOST_STEPS, description="optimizer steps between drawings")
    validation_epochs: int = Field(
        50, ge=1, le=1_000_000, description="or: rounds through the pictures between drawings"
    )
    report_to: Tracker = Field("tensorboard", description="where loss and pictures are shown, if it is installed")
    tracker_project_name: str = Field("tenshot", min_length=1, description="the project's name at a tracking service")


class TrainOptions(LoopOptions, WatchOptions, ExportOptions):
    """What training a model needs besides, whatever it learns from."""

    also: ClassVar[Mapping[str, str]] = script_options.ALSO
    elsewhere: ClassVar[Mapping[str, Elsewhere]] = script_options.ELSEWHERE

    pretrained_model_name_or_path: Model = Field(
        "pocket", description="pocket, a model folder, a checkpoint file, or org/name of the hub"
    )
    vae: VaePath | None = Field(None, description="a VAE, file or folder, in place of the model's own")
    resolution: int | None = Field(
        None, ge=8, le=MOST_PIXELS, multiple_of=8, description="side in pixels; default: the model's own"
    )
    gradient_checkpointing: bool = Field(False, description="less memory for more time")
    fit_memory: bool = Field(False, description="if it does not fit: checkpoint, accumulate, then another optimizer")
    num_processes: Few = Field(1, description="processes on this machine, each with a GPU of its own, or on CPUs")
    device: Device = Field("auto", description="auto, cpu, cuda, cuda:1, ...")

    @property
    def tracker(self) -> Tracker:
        """--report_to, where that is installed."""
        return self.report_to if self.report_to == "none" or find_spec(self.report_to) else "none"

    @property
    def judges(self) -> bool:
        """Is what is drawn during training compared with given pictures?"""
        return False

    @property
    def keeps_best(self) -> bool:
        """Is what was learned kept when drawings were most like given pictures?"""
        return False

    @property
    def text_encoder_learns(self) -> bool:
        return False

    def notes(self) -> Iterator[str]:
        if self.tracker != self.report_to and "report_to" in self.model_fields_set:
            name = self.report_to
            package = '"tenshot[tensorboard]"' if name == "tensorboard" else name
            yield f"{name} is not installed (pip install {package}): loss.jsonl has every step's figures"
        if self.pretrained_model_name_or_path == "pocket":
            yield POCKET


class FineTuneOptions(TrainOptions, PictureOptions, ClassOptions, ObjectiveOptions):
    """What fine-tuning a model on pictures needs besides."""

    also: ClassVar[Mapping[str, str]] = {**script_options.ALSO, **script_options.ALSO_PICTURES}

    keep_best: bool = Field(False, description="keep what was learned when drawings were most like your pictures")
    train_text_encoder: bool = Field(False, description="train the text encoder along with the denoiser")
    text_encoder_lr: float | None = Field(None, gt=0, le=100, description="its own learning rate; default: the same")
    fsdp: bool = Field(False, description="split weights, gradients and optimizer over the processes")

    def contents(self, wrong: Container[str] = ()) -> Iterator[Fault]:
        for name in PICTURES:
            folder = getattr(self, name, None)
            if folder and isdir(folder) and not any(each in wrong for each in ("caption_column", "mask_dir")):
                from tenshot.io import dataset

                read = partial(dataset.read, option=f"--{name}", column=self.caption_column, masks=self.mask_dir)
                yield from faults_of(partial(read, folder))
        if self.class_data_dir and isdir(self.class_data_dir):
            from tenshot.train.data import prior_images

            yield from faults_of(partial(prior_images.present, self.class_data_dir, self.num_class_images))

    def next_commands(self) -> Sequence[str]:
        model, prompt = self.output_dir, self.validation_prompt or getattr(self, "instance_prompt", None) or "TEXT"
        draw = next_commands.draw("checkpoint", model, prompt)
        return draw, next_commands.hand_over(model, self.trigger), next_commands.compiled(model)

    @property
    def trigger(self) -> str:
        """The words that call up what was learned."""
        return getattr(self, "instance_prompt", None) or ""

    @property
    def judges(self) -> bool:
        return self.keep_best or self.stop_when_learned

    @property
    def keeps_best(self) -> bool:
        return self.keep_best

    @property
    def text_encoder_learns(self) -> bool:
        return self.train_text_encoder

    def faults(self) -> Iterator[Fault]:
        yield from super().faults()
        if self.with_prior_preservation and not self.class_prompt:
            fits, do = "the class without your subject", 'add --class_prompt "a photo of a cat"'
            yield Fault("--class_prompt", "is needed with --with_prior_preservation", fits, do)
        if self.with_prior_preservation and not self.class_data_dir and not self.num_class_images:
            do = "leave it out, or add --class_data_dir FOLDER"
            yield Fault("--num_class_images", "0, and no --class_data_dir to take them from", "1 or more", do)
        if not self.with_prior_preservation and self.class_data_dir:
            found = "has no effect without --with_prior_preservation"
            yield Fault("--class_data_dir", found, "both or neither", "add --with_prior_preservation")
        yield from self._subject_faults()
        if self.aspect_ratio_buckets and self.center_crop:
            yield Fault("--center_crop", "has no effect with --aspect_ratio_buckets", "one of the two", "leave it out")
        for name in ("keep_best", "stop_when_learned"):
            if getattr(self, name) and not self.validation_prompt:
                do = "add --validation_prompt, with the subject in it"
                yield Fault(f"--{name}", "has nothing to judge", "drawings during training", do)
        if self.stop_when_learned and self.max_train_steps <= EARLIEST:
            found = f"cannot stop before step {EARLIEST}, and --max_train_steps is {self.max_train_steps}"
            do = "raise --max_train_steps, or leave it out"
            yield Fault("--stop_when_learned", found, f"--max_train_steps above {EARLIEST}", do)
        if self.text_encoder_lr and not self.train_text_encoder:
            found = "has no effect without --train_text_encoder"
            yield Fault("--text_encoder_lr", found, "both or neither", "add --train_text_encoder")

    def _subject_faults(self) -> Iterator[Fault]:
        """What is said to be the class, or a mask, and is the subject itself."""
        own = {place.resolve(): name for name in PICTURES if (place := getattr(self, name, None))}
        for name, fits in (
            ("class_data_dir", "pictures of the class without your subject"),
            ("mask_dir", "masks alone"),
        ):
            folder = getattr(self, name)
            if folder and folder.resolve() in own:
                found = f"{folder} is --{own[folder.resolve()]}"
                yield Fault(f"--{name}", found, fits, "name another folder")
        told = (getattr(self, "instance_prompt", None), self.class_prompt)
        subject, kind = (" ".join((text or "").split()).casefold() for text in told)
        if self.with_prior_preservation and subject == kind != "":
            found = "is --instance_prompt: what is learned of the one would be unlearned by the other"
            yield Fault("--class_prompt", found, "the class without your subject", "leave the rare word out of it")


class AdapterOptions(Options):
    """The adapter."""

    rank: Rank = Field(4, description="width of the adapter")
    lora_alpha: float | None = Field(None, gt=0, le=1e6, description="strength is alpha / rank; default: the rank")
    layers: Layers = Field("attention", description="attention; transformer: all its linear layers; all: convolutions")
    block_ranks: dict[str, Rank] = Field({}, description="other ranks for parts of the net, by their names")
    block_rates: dict[str, Annotated[float, Field(gt=0, le=1e6)]] = Field(
        {}, description="factors on the learning rate, by names"
    )
    use_dora: bool = Field(False, description="train magnitude and direction apart (DoRA)")
    use_rslora: bool = Field(False, description="strength is alpha / sqrt(rank) (rank-stabilised)")
    init_lora_weights: Literal["gaussian", "kaiming"] = Field(
        "gaussian", description="how A begins: gaussian, deviation 1/rank (diffusers' scripts); kaiming (peft, kohya)"
    )
    quantize_base: Literal["nf4", "int8"] | None = Field(
        None, description="keep the denoiser's matrices in 4 or 8 bits"
    )
    start_from: LoraFile | None = Field(None, description="a LoRA, file or folder, to train further")


class DreamBoothOptions(FineTuneOptions):
    """Teach a model one subject from 5-10 pictures."""

    instance_data_dir: FolderPath = Field(description="folder with the pictures of your subject")
    instance_prompt: str = Field(min_length=1, description='names the subject, as in "a photo of az cat"')
    output_dir: Path = Field(Path("out/dreambooth"), description="folder for the result, its checkpoints and its log")


class FullOptions(FineTuneOptions):
    """Teach a model from captioned pictures, all of its denoiser (UNet or transformer)."""

    train_data_dir: FolderPath = Field(description="folder of pictures with captions")
    output_dir: Path = Field(Path("out/full"), description="folder for the result, its checkpoints and its log")
    learning_rate: float = Field(1e-5, gt=0, le=100, description=RATE)


class LoraOptions(FineTuneOptions, AdapterOptions):
    """Teach a small adapter (LoRA), on a subject or on captioned pictures."""

    also: ClassVar[Mapping[str, str]] = {**FineTuneOptions.also, **script_options.ALSO_LORA}

    instance_data_dir: FolderPath | None = Field(None, description="folder with the pictures of your subject; or:")
    instance_prompt: str | None = Field(None, min_length=1, description='names it, as in "a photo of az cat"')
    train_data_dir: FolderPath | None = Field(None, description="folder of pictures with captions")
    embeddings: list[WordPath] = Field([], description="files with learned words that the captions say")
    output_dir: Path = Field(Path("out/lora"), description="folder for the result, its checkpoints and its log")
    learning_rate: float = Field(1e-4, gt=0, le=100, description=RATE)

    def next_commands(self) -> Sequence[str]:
        base, prompt = self.pretrained_model_name_or_path, self.instance_prompt or self.validation_prompt or "TEXT"
        draw = next_commands.draw("lora", self.output_dir, prompt, base)
        merge = command("merge", "--sd_model", base, "--models", self.output_dir, "--save_to", "FILE.safetensors")
        return draw, next_commands.hand_over(self.output_dir, self.trigger), merge

    def faults(self) -> Iterator[Fault]:
        yield from super().faults()
        if bool(self.train_data_dir) == bool(self.instance_data_dir):
            found = "both are given" if self.train_data_dir else "neither is given"
            fits = (
                "--instance_data_dir with --instance_prompt for a subject, or --train_data_dir for captioned pictures"
            )
            do = "leave one of them out" if self.train_data_dir else "add one of them"
            yield Fault("--instance_data_dir and --train_data_dir", found, fits, do)
        if self.instance_data_dir and not self.instance_prompt:
            do = 'add --instance_prompt "a photo of az cat"'
            yield Fault("--instance_prompt", "is needed with --instance_data_dir", "a text that names the subject", do)
        if self.train_data_dir and self.instance_prompt:
            found = "has no effect with --train_data_dir: every picture has its own caption"
            yield Fault("--instance_prompt", found, "one of the two", "leave it out")


class TextualInversionOptions(FineTuneOptions):
    """Teach new words only (textual inversion): the model itself stays as it is."""

    train_data_dir: FolderPath = Field(description="folder with the pictures of your subject or style")
    placeholder_token: list[Word] = Field(min_length=1, description="the new word or words")
    initializer_token: list[str] = Field(min_length=1, description="what each of them means at first, as in toy")
    num_vectors: int = Field(1, ge=1, le=75, description="how many embedding vectors each new word has")
    learnable_property: Literal["object", "style"] = Field("object", description="what the pictures have in common")
    output_dir: Path = Field(Path("out/inversion"), description="folder for the result, its checkpoints and its log")
    learning_rate: float = Field(5e-3, gt=0, le=100, description=RATE)
    adam_weight_decay: float = Field(0.0, ge=0, le=100, description="weight decay, decoupled from the gradient")

    def next_commands(self) -> Sequence[str]:
        base = self.pretrained_model_name_or_path
        file = self.output_dir / destinations.file_name(self.placeholder_token[0])
        return next_commands.draw("embedding", file, f"a photo of {file.stem}", base), next_commands.hand_over(file)

    def faults(self) -> Iterator[Fault]:
        yield from super().faults()
        words, first = self.placeholder_token, self.initializer_token
        if len(words) != len(first):
            found = f"{len(first)} for {len(words)} new words"
            do = f"write {len(words)} after --initializer_token"
            yield Fault("--initializer_token", found, "one for each --placeholder_token", do)
        if len(set(words)) != len(words):
            yield Fault("--placeholder_token", "a word is given twice", "words that differ", "change one of them")
        if len({destinations.file_name(word) for word in words}) != len(set(words)):
            found, fits = "two words would be written to one file", "words that differ in letters"
            yield Fault("--placeholder_token", found, fits, "change one of them")
        for word in words:
            if " " in word:
                do = f"--placeholder_token {shlex.quote('-'.join(word.split()) or '<az>')}"
                fits = "letters without spaces, as in <az>"
                yield Fault("--placeholder_token", f"{word!r} is not one word", fits, do)
        for word in first:
            if not word.strip():
                yield Fault("--initializer_token", "is empty", "a word that the model knows", "--initializer_token toy")
        if self.with_prior_preservation:
            found = "has no effect: class pictures do not show the new word, and nothing else learns"
            yield Fault("--with_prior_preservation", found, "no class pictures", "leave it out")
        if self.train_text_encoder:
            found = "textual inversion trains new words only"
            do = "leave it out, or use tenshot train lora"
            yield Fault("--train_text_encoder", found, "a text encoder that stays as it is", do)
        if self.proportion_empty_prompts:
            found = "without its word a caption teaches nothing here"
            yield Fault("--proportion_empty_prompts", found, "0", "leave it out")
