"""String keys shared by networks, training, evaluation and checkpoints.

They are an interface: InsightFace's tools and existing checkpoints use the same ones.
"""

DATA = 'data'
LABEL = 'softmax_label'
TEACHER = 'teacher_embedding'
TEACHER_CENTRES = 'teacher_centres'  # (C, D), a constant of the training graph; never saved

EMBEDDING = 'fc1'  # the embedding layer, a BatchNorm
EMBEDDING_OUTPUT = 'fc1_output'
CLASSIFIER_PREFIX = 'fc7'
CLASSIFIER_WEIGHT = 'fc7_weight'  # (C, D) class centres
CLASSIFIER_BIAS = 'fc7_bias'  # (C,), plain softmax only

IMAGE_SIZE = 112  # height and width of an aligned crop
IMAGE_SHAPE = (3, IMAGE_SIZE, IMAGE_SIZE)  # RGB, 0..255
