"How `index.ipynb` becomes README.md: `jupyter nbconvert --config nbs/readme_config.py`"
from nbconvert.preprocessors import Preprocessor, RegexRemovePreprocessor

class HideInput(Preprocessor):
    "Cells that begin with Quarto's `#| echo: false` show their output only"
    def preprocess_cell(self, cell, resources, index):
        if cell.source.startswith('#| echo: false'): cell.transient = {'remove_source': True}
        return cell, resources

c = get_config()
c.NbConvertApp.notebooks = ['nbs/index.ipynb']
c.NbConvertApp.export_format = 'markdown'
c.NbConvertApp.output_base = 'README'
c.FilesWriter.build_directory = '.'
c.MarkdownExporter.preprocessors = [RegexRemovePreprocessor, HideInput]
c.RegexRemovePreprocessor.patterns = [r'#\| hide']
