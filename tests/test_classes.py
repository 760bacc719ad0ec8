"Names of classes: what is matched, what is said, and what is refused"
import pandas as pd, pytest
from genderres.classifier import GenderClassifier
from genderres.data import gender_dls
from genderres.evaluate import evaluate
from genderres.photos import class_meaning, match_classes, photos_from_folder
from genderres.predict import predict_to_file

vocab = ['men', 'women']

@pytest.mark.parametrize('names', [('man', 'woman'), ('Men', 'WOMEN'), ('male', 'Female'), ('males', 'females'),
                                   ('M', 'f')])
def test_usual_names(names):
    assert match_classes(names, vocab) == dict(zip(names, vocab))
    assert match_classes(vocab, names) == dict(zip(vocab, names))

@pytest.mark.parametrize('name', ['boys', 'Herren', 'Ms', 'Mr', 'me', '0', 'menswear'])
def test_nothing_else_is_guessed(name):
    with pytest.raises(ValueError, match=rf'filed as {name}; the classifier knows men, women: '
                                         rf'.* fits {name}.*--classes {name}='):
        match_classes([name], vocab)
    assert match_classes([name], vocab, {name: 'Man'}) == {name: 'men'}

def test_names_without_a_usual_meaning():
    assert match_classes(['Cat', 'dogs'], ['cats', 'dog']) == dict(Cat='cats', dogs='dog')
    assert match_classes(['cat', 'cats'], ['cat', 'cats']) == dict(cat='cat', cats='cats')   # known as two

@pytest.mark.parametrize('known', [['men', 'women'], None])
def test_two_names_of_one_class(known):
    with pytest.raises(ValueError, match='Man and man look like one class. Say which is which'):
        match_classes(['Man', 'man', 'f'], known)
    assert len({*match_classes(['Man', 'man', 'f'], known, dict(Man='man')).values()}) == 2

def test_a_name_that_fits_two():
    with pytest.raises(ValueError, match='no single one of these fits Male'): match_classes(['Male'], ['man', 'men'])

@pytest.mark.parametrize('classes', [['men'], 'men', {'man': ''}, {'man': None}, {1: 'men'}])
def test_classes_that_are_no_names(classes):
    with pytest.raises(ValueError, match='give a new name for each name'): match_classes(['man'], vocab, classes)

def test_a_new_name_for_nothing():
    with pytest.raises(ValueError, match='a new name for mael, but the photos are filed as male'):
        match_classes(['male'], vocab, dict(mael='men'))

def test_a_message_is_short():
    with pytest.raises(ValueError) as e: match_classes(map(str, range(10_000)), vocab)
    assert '(10,000 in all)' in str(e.value) and len(str(e.value)) < 500

def test_evaluate_matches_and_says_so(untrained, photos, tmp_path):
    clf = GenderClassifier.load(untrained)
    same = evaluate(clf, photos, progress=False)
    moved = tmp_path/'moved'
    moved.mkdir()
    for old,new in dict(men='Man', women='Woman').items(): (photos/old).rename(moved/new)
    with pytest.warns(UserWarning, match='labels matched: Man → men, Woman → women'):
        other = evaluate(clf, moved, progress=False)
    assert other.label.tolist() == same.label.tolist() and other.prediction.tolist() == same.prediction.tolist()
    (moved/'Man').rename(moved/'Herren')
    with pytest.raises(ValueError, match='filed as Herren, Woman; the classifier knows men, women'):
        evaluate(clf, moved)
    assert (evaluate(clf, moved, classes=dict(Herren='men', Woman='women'), progress=False).label.tolist()
            == same.label.tolist())

def test_classes_may_name_labels_of_other_parts(untrained, photos):
    table = photos_from_folder(photos)[['file', 'label']].assign(split='test')
    table.loc[:3, ['label', 'split']] = 'Herren', 'train'
    clf = GenderClassifier.load(untrained)
    assert len(evaluate(clf, table, classes=dict(Herren='men'), progress=False)) == len(table) - 4
    with pytest.raises(ValueError, match='a new name for Heren'): evaluate(clf, table, classes=dict(Heren='men'))

def test_training_on_new_names(photos):
    table = photos_from_folder(photos)[['file', 'label']]
    assert ([*gender_dls(photos, size=32, classes=dict(men='male', women='female'), num_workers=0).vocab]
            == ['female', 'male'])
    mixed = table.assign(label=['Men', *table.label[1:]])
    with pytest.raises(ValueError, match='Men and men look like one class'): gender_dls(mixed, size=32)
    assert [*gender_dls(mixed, size=32, classes=dict(Men='men'), num_workers=0).vocab] == vocab

def test_answers_in_other_words(untrained, photos, tmp_path):
    clf = GenderClassifier.load(untrained)
    plain, new = clf.predict(photos, progress=False), clf.predict(photos, progress=False, classes=dict(men='Herren'))
    assert new.columns.tolist() == ['file', 'label', 'Herren', 'women', 'problem'] and clf.vocab == vocab
    assert new.label.replace('Herren', 'men').tolist() == plain.label.tolist() and (new.Herren == plain.men).all()
    counts = predict_to_file(clf, photos, tmp_path/'a.csv', classes=dict(men='Herren'), progress=False)
    assert {*counts.index} <= {'Herren', 'women'} and 'Herren' in pd.read_csv(tmp_path/'a.csv')
    for classes in (dict(men='women'), dict(men='file'), dict(men='unsure')):
        with pytest.raises(ValueError, match='a name of its own'): clf.predict(photos, classes=classes)
    with pytest.raises(ValueError, match='a new name for Men, but the classifier knows men, women'):
        clf.predict(photos, classes=dict(Men='x'))

def test_meanings_do_not_collide():
    assert len({*map(class_meaning, ['men', 'women', 'Ms', 'fs', 'boy', 'girls'])}) == 6
