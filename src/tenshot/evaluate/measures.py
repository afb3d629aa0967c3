"""The table: of a subject's own pictures, and of those that models draw of it. The names are DreamBooth's where it has
them (arXiv 2208.12242: PRES, DIV; DINO, CLIP-I, CLIP-T with those judges)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tenshot.evaluate import protocol, subject
from tenshot.evaluate.judge import Images, Judge
from tenshot.evaluate.prompts import EvaluationPrompt
from tenshot.evaluate.subject import SubjectScores

Figures = dict[str, float | None]  #: by the measures' names


@dataclass(frozen=True)
class Subject:
    """noun: its class. shown: pictures that were learned from. unseen: further ones. others: what it must not be taken
    for, name -> pictures."""

    noun: str
    shown: Images
    unseen: Images = ()
    others: Mapping[str, Images] = field(default_factory=dict)

    @property
    def class_prompt(self) -> str:
        return f"a photo of {protocol.article(self.noun)}"


def help_of(judge: Judge) -> dict[str, tuple[str, str]]:
    """Measure -> what it says, and which way is better."""
    own, prompt = judge.subject_measure, judge.prompt_measure
    more = {judge.picture_measure: ("cosine of what drawn pictures and the subject's show", "higher")}
    return {
        own: ("cosine of drawn pictures and the subject's, by the judge", "higher"),
        prompt: ("cosine of drawn pictures and their prompts, by the judge", "higher"),
        **(more if judge.picture_measure else {}),
        "margin": (f"{own} - {own} to the nearest of the other subjects", "higher"),
        "recognised": ("share of pictures to which one of the subject's is nearest, of all subjects'", "higher"),
        "background": ("share with the background asked for", "higher"),
        "style": ("share in the style asked for, by the judge", "higher"),
        "PRES": ("cosine of class pictures and the subject's: how far it leaks into its class", "lower"),
        "DIV": ("1 - cosine among class pictures: how varied the class stayed", "higher"),
        "copying": ("how much nearer to pictures that were shown than to others of the subject, by edges", "lower"),
    }


def of_real(judge: Judge, of: Subject) -> Figures:
    """What the subject's own pictures reach, each held against the rest of them; little of one picture alone."""
    images = [*of.shown, *of.unseen]
    said = judge.prompt_likeness(of.shown, [of.class_prompt] * len(of.shown))
    if len(images) < 2:
        nothing: Figures = dict.fromkeys(help_of(judge))
        return nothing | {judge.prompt_measure: said}
    looked = judge.look(images)
    alike = (looked @ looked.T).fill_diagonal_(0).sum().item() / max(1, len(images) * (len(images) - 1))
    return _figures(judge, subject.ceiling(judge, images, of.others), alike, said)


def of_drawn(
    judge: Judge,
    of: Subject,
    asked: Sequence[EvaluationPrompt],
    drawn: Mapping[str, Images],
    class_pictures: Images,
) -> Figures:
    """drawn: prompt -> its pictures. class_pictures: drawn from the class prompt alone."""
    own = of.unseen or of.shown
    pairs = [(each, image) for each in asked for image in drawn[each.prompt]]
    images = [image for _, image in pairs]
    scores = subject.scores(judge, images, of.shown, of.others, of.unseen)
    alike = (judge.look(images) @ judge.look(own).T).mean().item()
    said = judge.prompt_likeness(images, [each.plain for each, _ in pairs])
    contexts = {each.context: drawn[each.prompt] for each in asked if each.context}
    background, style = protocol.as_asked(judge, contexts, of.noun) if contexts else (None, None)
    return _figures(judge, scores, alike, said) | {
        "background": background,
        "style": style,
        "PRES": judge.likeness(class_pictures, own),
        "DIV": judge.diversity(class_pictures),
    }


def _figures(judge: Judge, scores: SubjectScores, alike: float, said: float) -> Figures:
    told: Figures = dict.fromkeys(help_of(judge))
    told |= {judge.subject_measure: scores.likeness, judge.prompt_measure: said}
    told |= {"margin": scores.margin, "recognised": scores.identified, "copying": scores.copying}
    return told | ({judge.picture_measure: alike} if judge.picture_measure else {})
