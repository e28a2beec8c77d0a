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


def cosines(embeddings, centres):
    """Of every embedding and every centre, list of N lists."""
    centres = [unit(centre) for centre in centres]
    return [
        [sum(a * b for a, b in zip(unit(row), centre)) for centre in centres] for row in embeddings
    ]


def margin_logits(embeddings, centres, labels, s, m1, m2, m3):
    rows = cosines(embeddings, centres)
    for row, label in zip(rows, labels):
        row[label] = margin_target(row[label], m1, m2, m3)
    return [[s * value for value in row] for row in rows]


def margin_loss(embeddings, centres, labels, s, m1, m2, m3):
    """Cross entropy of every row, list of N floats."""
    return cross_entropy(margin_logits(embeddings, centres, labels, s, m1, m2, m3), labels)


def cross_entropy(logits, labels, smoothing=0.0):
    """-sum of q log p over the classes; q is 1 - smoothing for the label, and smoothing / C more
    for every class."""
    losses = []
    for row, label in zip(logits, labels):
        below, loss = log_sum_exp(row), 0.0
        for number, logit in enumerate(row):
            share = (1 - smoothing) * (number == label) + smoothing / len(row)
            loss += share * (below - logit)
        losses.append(loss)
    return losses


def arcneg_weights(embeddings, centres, labels, m, alpha, sigma):
    """The weights t of ArcNegFace, list of N lists."""
    rows = []
    for row, label in zip(cosines(embeddings, centres), labels):
        target = margin_target(row[label], 1, m, 0)
        rows.append([alpha * math.exp(-((value - target) ** 2) / sigma) for value in row])
    return rows


def arcneg_logits(embeddings, centres, labels, weights, s, m):
    """Logits with weights that are given: constants to the gradient."""
    rows = cosines(embeddings, centres)
    for row, label, each in zip(rows, labels, weights):
        for number, value in enumerate(row):
            if number == label:
                row[number] = s * margin_target(value, 1, m, 0)
            else:
                row[number] = s * (each[number] * value + each[number] - 1)
    return rows


def regular_face(centres, labels):
    """Cosine of each label's centre and the nearest other one."""
    rows = cosines(centres, centres)
    return [
        max(value for other, value in enumerate(rows[label]) if other != label) for label in labels
    ]


def softmax_loss(embeddings, weight, bias, labels):
    logits = [
        [sum(a * b for a, b in zip(row, w)) + c for w, c in zip(weight, bias)] for row in embeddings
    ]
    return cross_entropy(logits, labels)


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
