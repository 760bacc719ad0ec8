"Package metadata and requirements, read from settings.ini, and the version, from the package; pyproject.toml holds what build tools and nbdev need."
import re
from configparser import ConfigParser
from pathlib import Path
from setuptools import setup

root = Path(__file__).parent
ini = ConfigParser()
ini.read(root/'settings.ini', encoding='utf-8')
cfg, extras = ini['DEFAULT'], ini['extras']
version = re.search(r'^__version__ = "(.+)"$', (root/cfg['lib_name']/'__init__.py').read_text(encoding='utf-8'), re.M)[1]

setup(
    version=version, description=cfg['description'], author=cfg['author'], license_expression=cfg['license'],
    keywords=cfg['keywords'].split(', '), python_requires='>=' + cfg['min_python'],
    long_description=(root/'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    install_requires=cfg['requirements'].split(),
    extras_require={k: v.split() for k,v in extras.items() if k not in ini.defaults()},
    packages=[cfg['lib_name']], package_data={cfg['lib_name']: ['*.safetensors']},
)
