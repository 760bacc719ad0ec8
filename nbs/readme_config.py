"How `index.ipynb` becomes README.md: `jupyter nbconvert --config nbs/readme_config.py`"
c = get_config()
c.NbConvertApp.notebooks = ['nbs/index.ipynb']
c.NbConvertApp.export_format = 'markdown'
c.NbConvertApp.output_base = 'README'
c.FilesWriter.build_directory = '.'
c.MarkdownExporter.preprocessors = ['nbconvert.preprocessors.RegexRemovePreprocessor']
c.RegexRemovePreprocessor.patterns = [r'#\| hide']
