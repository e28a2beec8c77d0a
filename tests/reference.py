"""Slow definitions in float64 that fast code is compared with: loops, no vectorising."""

import math

import numpy as np

COSINE_LIMIT = 1 - 1e-6


def unit(row):
    length = math.sqrt(sum(value * value for value in row))
    return [value / length for value in row]


def margin_target(cosine, m1, m2, m3):
    """cos(m1 theta + m2) - m3, past pi the straight continuation that ArcFace uses."""
    if m1 == 1 and m2 == 0:
        return cosine - m3
    theta = math.acos(min(max(cosine, -COSINE_LIMIT), COSINE_LIMIT))
    if m1 * theta + m2 < math.pi:
        return math.cos(m1 * theta + m2) - m3
    limit = (math.pi - m2) / m1
    return cosine - (math.pi - limit) * math.sin(limit) - m3


def margin_loss(embeddings, centres, labels, s, m1, m2, m3):
    """Cross entropy of every row, list of N floats."""
    losses = []
    for row, label in zip(embeddings, labels):
        row = unit(row)
        logits = []
        for number, centre in enumerate(centres):
            cosine = sum(a * b for a, b in zip(row, unit(centre)))
            if number == label:
                cosine = margin_target(cosine, m1, m2, m3)
            logits.append(s * cosine)
        losses.append(log_sum_exp(logits) - logits[label])
    return losses


def softmax_loss(embeddings, weight, bias, labels):
    losses = []
    for row, label in zip(embeddings, labels):
        logits = [sum(a * b for a, b in zip(row, w)) + c for w, c in zip(weight, bias)]
        losses.append(log_sum_exp(logits) - logits[label])
    return losses


def log_sum_exp(values):
    largest = max(values)
    return largest + math.log(sum(math.exp(value - largest) for value in values))


def angular_distance(student, teacher, form):
    """Summands of Eq. 5 ('l2') or Eq. 4 ('cosine') of VarGFaceNet."""
    distances = []
    for ours, theirs in zip(student, teacher):
        ours, theirs = unit(ours), unit(theirs)
        if form == 'l2':
            distances.append(sum((a - b) ** 2 for a, b in zip(ours, theirs)))
        else:
            distances.append((1 - sum(a * b for a, b in zip(ours, theirs))) ** 2)
    return distances


def gradient(function, values, step=1e-6):
    """Central differences of a scalar function of one float64 array."""
    values = np.array(values, np.float64)
    result = np.zeros_like(values)
    for index in np.ndindex(values.shape):
        original = values[index]
        values[index] = original + step
        above = function(values)
        values[index] = original - step
        below = function(values)
        values[index] = original
        result[index] = (above - below) / (2 * step)
    return result
