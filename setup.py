"Package metadata and requirements, read from settings.ini; pyproject.toml holds only what build tools and nbdev need."
from configparser import ConfigParser
from pathlib import Path
from setuptools import setup

ini = ConfigParser()
ini.read(Path(__file__).with_name('settings.ini'), encoding='utf-8')
cfg, extras = ini['DEFAULT'], ini['extras']

setup(
    version=cfg['version'], description=cfg['description'], author=cfg['author'], license_expression=cfg['license'],
    keywords=cfg['keywords'].split(', '), python_requires='>=' + cfg['min_python'],
    long_description=Path(__file__).with_name('README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    install_requires=cfg['requirements'].split(),
    extras_require={k: v.split() for k,v in extras.items() if k not in ini.defaults()},
    packages=[cfg['lib_name']], package_data={cfg['lib_name']: ['*.safetensors']},
)
