"What a report says about few photos, and what a log holds of a progress bar"
import io, time, warnings
import matplotlib.pyplot as plt, numpy as np, pandas as pd, pytest
from fastprogress.fastprogress import progress_bar
from genderres.files import PlainLog
from genderres.interpret import GenderInterpretation
from genderres.stats import summary
from tqdm import tqdm

def answers(n, right, vocab=('men', 'women')):
    "`n` photos of each class; those of the first class are all right, of the others `right`"
    targs = np.repeat(range(len(vocab)), n)
    preds = np.eye(len(vocab))[np.where(np.arange(len(targs)) % n < np.where(targs == 0, n, right), targs, 0)]
    items = pd.DataFrame(dict(file=[f'{i}.jpg' for i in range(len(targs))]))
    return GenderInterpretation.from_answers(preds, targs, items, vocab)

def test_four_photos_say_nothing():
    interp = answers(4, 0)
    assert 'Only 4 of men and 4 of women: the shares say little' in summary(interp.scores())
    assert '95% interval 51.0% to 100.0%' in summary(interp.scores())
    assert 'Too few photos of men' in str(interp.report()) and 'Too few photos of women' in str(interp.report())
    assert 'say little' not in summary(answers(20, 10).scores())

def test_class_names_without_a_glyph(tmp_path):
    "One note for all figures, and none where another font has the character"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        warnings.filterwarnings('ignore', 'Glyph .* missing')   # as at the shell
        interp = answers(4, 2, ['\U0010fffc', 'women'])
        for _ in range(3): interp.plot_confusion_matrix().savefig(tmp_path/'a.png', bbox_inches='tight')
    assert ['no installed font' in str(o.message) for o in caught] == [True]
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        # in DejaVu Sans Mono only
        answers(4, 2, ['\u2312', 'women']).plot_confusion_matrix().savefig(tmp_path/'a.png', bbox_inches='tight')
    plt.close('all')

@pytest.mark.parametrize('bar', [lambda o, log: tqdm(o, file=log, mininterval=0, ascii=False),
                                 lambda o, log: progress_bar(o, leave=False)])
def test_bars_in_a_log(bar, monkeypatch):
    "No blocks and no carriage returns; a line now and then; other lines as they are"
    file = io.StringIO()
    log = PlainLog(file, every=.1)
    monkeypatch.setattr('sys.stdout', log)   # fastprogress prints
    print('epoch     train_loss | x')
    for o in bar(range(30), log): time.sleep(.02)
    print('the end')
    lines = file.getvalue().splitlines()
    assert not {*'\r\u2588'} & {*file.getvalue()}
    assert lines[0] == 'epoch     train_loss | x' and lines[-1] == 'the end'
    assert 3 <= len(lines) <= 10 and all('%' in o and '/30' in o for o in lines[1:-1])
