"How `index.ipynb` becomes README.md: `jupyter nbconvert --config nbs/readme_config.py`"
from nbconvert.preprocessors import Preprocessor, RegexRemovePreprocessor

class ForReadme(Preprocessor):
    """Cells that begin with Quarto's `#| echo: false` show their output only;
    the others are marked as Python, and show no progress bars"""
    def preprocess_cell(self, cell, resources, index):
        cell.metadata['magics_language'] = 'python'   # cleaned notebooks do not say it
        if 'outputs' in cell: cell.outputs = [o for o in cell.outputs if o.output_type != 'display_data']
        if cell.source.startswith('#| echo: false'): cell.metadata['transient'] = {'remove_source': True}
        return cell, resources

c = get_config()
c.NbConvertApp.notebooks = ['nbs/index.ipynb']
c.NbConvertApp.export_format = 'markdown'
c.NbConvertApp.output_base = 'README'
c.FilesWriter.build_directory = '.'
c.MarkdownExporter.preprocessors = [RegexRemovePreprocessor, ForReadme]
c.RegexRemovePreprocessor.patterns = [r'#\| hide']
