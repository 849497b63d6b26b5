"""What the entries of a code do: the strongest ones, and the way from one code to another."""

import torch

STEP = 1.0  # a change of a float entry, whose prior is N(0, 1)
SPAN = 2.5  # floats are shown from -SPAN to SPAN


def one_changed(task, code: torch.Tensor) -> torch.Tensor:
    """All codes that differ from `code` [K] in one entry, one for each: [K, K]."""
    if task.code_kind == "bernoulli":
        other = 1 - code
    elif task.code_kind == "categorical":
        other = (code + 1) % task.num_categories
    else:
        other = code + STEP
    return torch.where(torch.eye(len(code), dtype=torch.bool, device=code.device), other, code)


def decode_one_label(task, codes: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Images [N, 28, 28] of codes [N, K] that share a label."""
    return task.decode(codes, label.expand(len(codes))).squeeze(1)


def effects(task, code: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """How much the image of `code` [K] changes with each entry alone: squared distances, [K]."""
    images = decode_one_label(task, torch.cat([code[None], one_changed(task, code)]), label)
    return (images[1:] - images[0]).square().sum(dim=(1, 2))


def interpolate(task, start, end, label, count: int) -> torch.Tensor:
    """Images on the way from the code `start` [K] to `end`: [count, 28, 28].

    Floats go straight. Discrete entries change one after the other, those with a small effect
    first; the images shown are about equally far apart by the sum of these effects.
    """
    share = torch.linspace(0, 1, count, device=start.device)
    if task.code_kind == "float":
        return decode_one_label(task, torch.lerp(start, end, share.unsqueeze(1)), label)
    effect = torch.where(start != end, effects(task, start, label), torch.inf)
    effect, order = effect.sort()
    differ = (start != end).sum()
    travelled = effect[:differ].cumsum(dim=0)  # after 1, 2, ... changes
    total = travelled[-1] if differ > 0 else 0.0
    changes = torch.searchsorted(travelled, share * total * (1 + 1e-6), right=True)  # (count,)
    place = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)).to(order))
    codes = torch.where(place < changes.unsqueeze(1), end, start)  # (count, K)
    return decode_one_label(task, codes, label)


def strongest(task, codes: torch.Tensor, labels: torch.Tensor, count: int) -> list[int]:
    """The `count` entries that change the images of codes [N, K] most, the strongest first."""
    pairs = zip(codes, labels, strict=True)
    effect = torch.stack([effects(task, code, label) for code, label in pairs]).mean(dim=0)
    return effect.topk(min(count, len(effect))).indices.tolist()


def traverse(task, codes, labels, entry: int, count: int) -> torch.Tensor:
    """Images of what one entry does, each less the image before it changed: [n, 2, 28, 28].

    The first of two is the image, the second its difference from that of the code as it was. A
    float goes from -SPAN to SPAN in the first code, a category through its first values. A bit is
    set to 1 in each of the first codes, where it was 0 before.
    """
    if task.code_kind == "bernoulli":
        before, labels, values = codes[:count].clone(), labels[:count], 1.0
        before[:, entry] = 0
    else:
        is_float = task.code_kind == "float"
        number = count if is_float else min(count, task.num_categories)
        before, labels = codes[:1].expand(number, -1), labels[:1].expand(number)
        values = torch.linspace(-SPAN, SPAN, number) if is_float else torch.arange(number)
        values = values.to(codes)
    after = before.clone()
    after[:, entry] = values
    images = task.decode(after, labels)  # (n, 1, 28, 28)
    return torch.cat([images, images - task.decode(before, labels)], dim=1)
