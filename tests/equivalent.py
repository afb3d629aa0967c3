"""Mutants that no test can notice: module, the line, the line as changed -> why it does the same."""

from __future__ import annotations

EQUIVALENT: dict[tuple[str, str, str], str] = {
    (
        "adapters/weight_delta",
        "length: torch.Tensor = new.transpose(0, axis).flatten(1).norm(dim=1) + torch.finfo(new.dtype).eps",
        "length: torch.Tensor = new.transpose(axis, 0).flatten(1).norm(dim=1) + torch.finfo(new.dtype).eps",
    ): "either axis may be named first",
    (
        "adapters/loha_lokr",
        'made = Kronecker(outer, inner, 1.0, found.get("magnitude"))',
        'made = Kronecker(outer, inner, 2.0, found.get("magnitude"))',
    ): "the next line puts the file's alpha in its place",
    (
        "adapters/loha_lokr",
        'if not {f"{name}_a", f"{name}_b"} <= found.keys():',
        "if not {f'{name}_a', f'{name}_b'} < found.keys():",
    ): "the tensors of the other factor are there, too, or the answer is None all the same",
    (
        "adapters/factors",
        "u, s, v = torch.linalg.svd(_finite(difference.float()).flatten(1), full_matrices=False)",
        "u, s, v = torch.linalg.svd(_finite(difference.float()).flatten(1), full_matrices=True)",
    ): "more time and memory for columns that are cut off",
    (
        "diffusion/process",
        "s = (self.steps - place).float() / self.steps",
        "s = (self.steps - place) / self.steps",
    ): "whole numbers divide to float32",
    (
        "families/mmdit",
        "first = {three[0]: module for module, three in stacked.items()}",
        "first = {three[1]: module for module, three in stacked.items()}",
    ): "whichever of the three stands for all of them",
    (
        "train/engine/denoising",
        "error = losses.errors(answer, self.process.target(clean, noise, steps), self.error, self.bend, mask)",
        "error = losses.errors(self.process.target(clean, noise, steps), answer, self.error, self.bend, mask)",
    ): "errors are the same both ways, and so are their gradients",
    (
        "train/engine/denoising",
        "mean, std = (torch.stack(part).float() for part in zip(*(self.each[row] for row in rows), strict=True))",
        "mean, std = (torch.stack(part).float() for part in zip(*(self.each[row] for row in rows), strict=False))",
    ): "every row is a pair",
}
