"Tables of answers from anywhere, and what is wrong with them"
import json
import numpy as np, pandas as pd, pytest
from genderres.audit import at_coverage, audit, match_files
from genderres.interpret import GenderInterpretation
from genderres.stats import simulate_answers

two = ['men', 'women']

@pytest.fixture
def faces():
    "200 labelled photos and the probability of men"
    probs, targs = simulate_answers(200)
    labels = pd.DataFrame(dict(file=[f'{two[t]}/{i:03}.jpg' for i,t in enumerate(targs)], label=np.array(two)[targs]))
    return labels, probs[:,0]

def table(labels, p, **columns): return pd.DataFrame(dict(file=labels.file, **columns))

def test_every_form_gives_the_same_figures(faces, tmp_path):
    labels, p = faces
    said = np.where(p > .5, 'Man', 'Woman')
    probs = GenderInterpretation.from_answers(np.c_[p, 1 - p], (labels.label == 'women').astype(int),
                                              labels, two).report().table
    sure, other = np.where(p > .5, p, 1 - p), dict(classes=dict(Herr='men', Dame='women'))
    forms = [(dict(men=p, women=1 - p), {}), (dict(Man=100*p, Woman=100 - 100*p, dominant_gender=said), {}),
             (dict(p_female=1 - p), {}), (dict(gender=np.where(p > .5, 'male', 'female'), gender_score=sure), {}),
             ({'Gender.Value': said, 'Gender.Confidence': 100*sure}, {}),
             (dict(a=p, b=1 - p), dict(columns=dict(men='a', women='b'))), (dict(Herr=p, Dame=1 - p), other),
             (dict(who=said, score=sure), dict(columns=dict(label='who', probability='score')))]
    for columns,how in forms:
        res = audit(table(labels, p, **columns), labels, **how)
        pd.testing.assert_frame_equal(res.report.table, probs, check_exact=False, atol=1e-6)
        table(labels, p, **columns).to_csv(tmp_path/'answers.csv', index=False)
        res = audit(tmp_path/'answers.csv', labels, **how)
        assert res.report.table.right['accuracy'] == probs.right['accuracy']

def test_words_alone(faces):
    labels, p = faces
    res = audit(table(labels, p, gender=np.where(p > .5, 'M', 'F')), labels)
    assert not res.has_probabilities and res.coverage is None and 'log loss' not in res.report.table.index
    assert (any('nothing can be said about calibration' in o for o in res.report.notes)
            and 'Matched: F → women, M → men.' in res.report.notes)
    both = table(labels, p, men=p, women=1 - p, who=np.where(p > .5, 'm', 'f'))
    assert not audit(both, labels, columns=dict(label='who')).has_probabilities

def test_missing_doubled_and_unknown_files(faces):
    labels, p = faces
    answers = table(labels, p, men=p, women=1 - p)[10:]
    odd = pd.concat([answers, answers[:3], answers[5:7].assign(men=.5, women=.5),
                     answers[:2].assign(file=['x/1.png', 'y/1.png'])])
    res = audit(odd.sample(frac=1, random_state=0), labels)
    assert res.table.problem.value_counts().to_dict() == {'': 188, 'no answer': 10, 'more than one answer': 2}
    assert res.report.words.loc['answered', 'counts'] == '188 of 200'
    assert any(o.startswith('Answers about files without a label: 2, e.g. ') for o in res.report.notes)
    assert res.table.file.tolist() == labels.file.tolist()

def test_files_are_not_mixed_up():
    known = ['a/1.jpg', 'b/1.jpg', 'b/2.jpg']
    assert match_files(['/d/b/1.jpg', '/d/a/1.jpg', '2.jpg'], known).tolist() == [1, 0, 2]
    assert match_files(['1.jpg', 'c/1.jpg'], known).isna().all()
    assert match_files([], known).tolist() == [] and match_files(['1.jpg'], []).isna().all()
    answered = [*(f'train/{i}.jpg' for i in range(4)), *(f'val/{i}.jpg' for i in range(3))]
    wanted = [f'val/{i}.jpg' for i in range(4)]
    assert match_files(wanted, answered).fillna(-1).tolist() == [4, 5, 6, -1]
    deep = [f'x/{o}' for o in ('men/old/1.jpg', 'men/2.jpg', '3.jpg')]
    assert match_files(deep, [o.replace('x/', '/data/y/') for o in deep]).tolist() == [0, 1, 2]   # two roots, any depth
    assert match_files(['p/1.jpg', 'q/2.jpg'], ['x/1.jpg', 'y/2.jpg']).tolist() == [0, 1]

def test_probabilities_that_do_not_add_up(faces):
    labels, p = faces
    few = table(labels, p, men=p, women=1 - p)
    few.loc[:4, 'men'] = [.9, 2, -1, np.nan, .0]
    few.loc[:4, 'women'] = [.9, .1, 2, .5, .0]
    res = audit(few, labels)
    assert res.table.problem.value_counts()['its probabilities do not add up to 1'] == 5
    with pytest.raises(ValueError, match='200 of 200 answers cannot be used: its probabilities do not add up to 1'):
        audit(few.assign(men=.7, women=.6), labels)
    with pytest.raises(ValueError, match='its probabilities say another class.*Is a column taken for another'):
        audit(table(labels, p, men=1 - p, women=p, gender=np.where(p > .5, 'men', 'women')), labels)

def test_rounded_probabilities_are_used(faces):
    labels, p = faces
    assert len(audit(table(labels, p, men=p.round(2), women=(1 - p).round(2) + .01), labels).used) == 200

def test_words_that_fit_nothing(faces):
    labels, p = faces
    said = np.where(p > .5, 'man', 'woman').astype(object)
    said[:5] = 'unclear'
    with pytest.raises(ValueError,
                       match='the answers say man, unclear, woman; the labels say men, women: .* fits unclear'):
        audit(table(labels, p, gender=said), labels)
    res = audit(table(labels, p, gender=said), labels, classes=dict(unclear='unsure'))
    assert len(res.used) == 195 and (res.table.problem[:5] == 'no answer').all()
    with pytest.raises(ValueError, match='unclar, which is neither'):
        audit(table(labels, p, gender=said), labels, classes=dict(unclar='unsure'))

def test_labels_of_one_class_only(faces):
    labels, p = faces
    men = labels[labels.label == 'men']
    answers = table(labels, p, gender=np.where(p > .5, 'Man', 'Woman'))
    with pytest.raises(ValueError, match='fits Woman'): audit(answers, men)
    assert audit(answers, men, classes=dict(Woman='women')).report.table.n['recall women'] == 0

@pytest.mark.parametrize('change,says', [
    (dict(file='elsewhere.jpg'), 'no answer is about one of the 200 labelled files'),
    (dict(men='x', women='y'), 'no column with answers')])
def test_tables_that_do_not_fit(faces, change, says):
    labels, p = faces
    with pytest.raises(ValueError, match=says): audit(table(labels, p, men=p, women=1 - p).assign(**change), labels)

def test_wrong_names_of_columns_and_files(faces, tmp_path):
    labels, p = faces
    answers = table(labels, p, men=p, women=1 - p)
    with pytest.raises(ValueError, match="no column 'mne'"): audit(answers, labels, columns=dict(men='mne'))
    with pytest.raises(ValueError, match="by='era': the labels have no such column"): audit(answers, labels, by='era')
    with pytest.raises(FileNotFoundError, match='no such file'): audit(tmp_path/'none.csv', labels)

def test_thousands_of_groups(faces):
    labels, p = faces
    labels = pd.concat([labels.assign(file=f'{i}/' + labels.file) for i in range(5)], ignore_index=True)
    labels['name'] = [f'n{i}' for i in range(len(labels))]
    res = audit(pd.DataFrame(dict(file=labels.file, men=np.tile(p, 5), women=1 - np.tile(p, 5))), labels, by='name')
    groups = res.groups['name']
    assert len(groups.table) == 3*51 and groups.table.n[groups.table.score == 'accuracy'].sum() == 1000
    assert 'Of 1,000 groups, the 50 largest are compared' in str(res)

def test_groups_to_compare_are_not_persons(faces):
    labels, p = faces
    labels = labels.assign(group=np.where(np.arange(200) % 2, 'x', 'y'))
    answers = table(labels, p, men=p, women=1 - p)
    apart, together = audit(answers, labels, by='group'), audit(answers, labels)
    said = 'The 200 photos come from 2 groups'
    assert said in str(together.report) and said not in str(apart.report)
    assert {*apart.groups['group'].table.group} == {'x', 'y'}

def test_the_part_of_a_split_counts(faces):
    labels, p = faces
    labels = labels.assign(split=['train']*150 + ['test']*50)
    answers = table(labels, p, men=p, women=1 - p)
    assert len(audit(answers, labels).used) == 50 and len(audit(answers, labels, part='train').used) == 150
    with pytest.raises(ValueError, match='nothing to audit: of 50 photos, 50'): audit(answers[:150], labels)

def test_labels_in_folders(photos):
    files = sorted(photos.rglob('*.jpg'))
    answers = pd.DataFrame(dict(image=[o.name for o in files], label=[o.parent.name for o in files]))
    res = audit(answers, photos)
    assert len(res.used) == 20 and res.report.table.value['accuracy'] == 1

def test_at_coverage_keeps_ties_together():
    assert at_coverage(np.array([.9]*10), np.ones(10, bool)).answered.tolist() == [10]

def test_shell(faces, tmp_path, monkeypatch):
    from genderres.cli import app
    from typer.testing import CliRunner
    labels, p = faces
    monkeypatch.chdir(tmp_path)
    labels.assign(age=['young', 'old']*100).to_csv('labels.csv', index=False)
    table(labels, p, Herr=p, Dame=1 - p).to_csv('answers.csv', index=False)
    run = lambda *args: CliRunner().invoke(app, ['audit', 'answers.csv', 'labels.csv', *args])
    res = run('--classes', 'Herr=men,Dame=women', '--by', 'age', '--json')
    assert res.exit_code == 0, res.output
    data = json.loads(res.stdout)
    assert data['photos'] == 200 and data['groups']['age']['table'][0]['group'] == 'old' and len(data['coverage']) > 3
    assert 'By age:' in run('--columns', 'men=Herr,women=Dame', '--by', 'age').stdout
    assert run('--classes', 'Herr').exit_code == 2
    bad = run()
    assert bad.exit_code == 1 and 'no column with answers' in bad.stderr
    labels.assign(age=['young', 'old']*100).to_csv('labels.csv', index=False, header=False)
    table(labels, p, who=np.where(p > .5, 'm', 'f')).to_csv('answers.csv', index=False, header=False)
    assert 'By 2:' in run('--columns', 'label=1', '--by', '2').stdout

@pytest.mark.parametrize('keep', ['shuffled', 'twice', 'file'])
def test_the_index_of_a_table(faces, tmp_path, keep):
    "The order of the rows counts; an index that has a name is a column"
    labels, p = faces
    labels = labels.assign(age=['young', 'old']*100)
    answers = table(labels, p, men=p, women=1 - p)
    right, order = audit(answers, labels, by='age'), np.random.default_rng(0).permutation(200)
    change = dict(shuffled=lambda o: o.iloc[order], twice=lambda o: o.set_axis([5]*200),
                  file=lambda o: o.set_index('file'))[keep]
    paths, tables = [tmp_path/'a.parquet', tmp_path/'l.parquet'], [*map(change, (answers, labels))]
    for o,path in zip(tables, paths): o.to_parquet(path)
    for given in (paths, tables):
        res = audit(*given, by='age')
        assert res.report.table.right['accuracy'] == right.report.table.right['accuracy']
        pd.testing.assert_frame_equal(res.groups['age'].table, right.groups['age'].table)

def test_a_slip_in_one_row(faces):
    labels, p = faces
    said, p = np.where(p > .5, 'men', 'women'), p.copy()
    sure = np.where(p > .5, p, 1 - p)
    p[3] = sure[3] = 98
    for columns in (dict(men=p), dict(gender=said, gender_score=sure)):
        res = audit(table(labels, p, **columns), labels)
        assert len(res.used) == 199 and res.table.problem[3] == 'its probabilities do not add up to 1'
    res = audit(table(labels, p, men=100*faces[1]), labels)   # percentages
    assert len(res.used) == 200

@pytest.mark.parametrize('kind', [int, float, 'Int64', 'string'])
def test_numbers_for_classes_and_missing_values(faces, tmp_path, kind):
    labels, p = faces
    answers = table(labels, p, gender=pd.Series(p > .5).astype(int).astype(kind))
    classes = {'0': 'women', '1': 'men'}
    if kind != int: answers.loc[0, 'gender'] = None
    answers.to_parquet(tmp_path/'a.parquet')
    for o in (answers, tmp_path/'a.parquet'): assert len(audit(o, labels, classes=classes).used) == 200 - (kind != int)
    assert len(audit(answers.rename(columns=dict(gender='men')), labels).used) == 200 - (kind != int)

def test_missing_values_of_pandas(faces):
    labels, p = faces
    labels = labels.assign(person=pd.Series(['Ann', pd.NA]*100), age=pd.Series(['old', pd.NA]*100))
    answers = table(labels, p, men=pd.Series(p, dtype='Float64'), gender=np.where(p > .5, 'm', 'f')).astype(object)
    answers.loc[:4, ['men', 'gender']] = pd.NA
    for o in (answers, answers.convert_dtypes()): assert len(audit(o, labels, by='age').used) == 195

def test_two_columns_of_one_name(faces, tmp_path):
    labels, p = faces
    answers = table(labels, p, men=p, gender=np.where(p > .5, 'm', 'f'), note='')
    for name,columns in dict(men=['file', 'men', 'men', 'x'], file=['file', 'file', 'gender', 'x'],
                             gender=['file', 'y', 'gender', 'gender']).items():
        with pytest.raises(ValueError, match=f"the answers have two columns '{name}': rename one of them"):
            audit(answers.set_axis(columns, axis=1), labels)
    assert len(audit(answers.set_axis(['file', 'men', 'note', 'note'], axis=1), labels).used) == 200
    twice = labels.assign(a='x', b='y').set_axis(['file', 'label', 'age', 'age'], axis=1)
    with pytest.raises(ValueError, match="the labels have two columns 'age'"): audit(answers, twice, by='age')

def test_a_tie_is_as_the_answer_says(faces):
    labels, p = faces
    for word in ('female', 'male'):
        res = audit(table(labels, p, gender=word, gender_score=.5), labels)
        said = {'female': 'women', 'male': 'men'}[word]
        assert {*res.table.prediction} == {said} and (res.interp.decoded == two.index(said)).all()

def test_classes_of_other_parts(faces):
    labels, p = faces
    labels = labels.assign(split=['train']*100 + ['test']*100, label=['child', 'Baby']*5 + [*labels.label[10:]])
    res = audit(table(labels, p, men=p, women=1 - p), labels, classes=dict(Baby='child'))
    assert res.vocab == two and len(res.used) == 100
    knows = table(labels, p, men=p, women=1 - p, child=0)
    assert audit(knows, labels, classes=dict(Baby='child')).vocab == ['child', *two]
    with pytest.raises(ValueError, match='Kind, which is neither'):
        audit(table(labels, p, men=p), labels, classes=dict(Kind='child'))
    with pytest.raises(ValueError, match="classes=.'men'.: give a new name for each name"):
        audit(table(labels, p, men=p), labels, classes=['men'])

def test_labels_that_are_unsure(faces):
    labels, p = faces
    labels.loc[:4, 'label'] = 'unknown'
    res = audit(table(labels, p, men=p, women=1 - p), labels, classes=dict(unknown='unsure'))
    assert res.vocab == two and 'Left out: 5 (labelled unsure).' in res.report.notes
    assert 'answered' not in res.report.table.index   # nobody asked about these

@pytest.mark.parametrize('name', ['Group', 'PERSON', 'group'])
def test_groups_of_any_case_are_not_persons(faces, name):
    labels, p = faces
    labels[name] = np.where(np.arange(200) % 2, 'x', 'y')
    assert 'come from 2 groups' not in str(audit(table(labels, p, men=p), labels, by=name).report)

def test_tables_without_rows_and_usual_file_names(faces, tmp_path):
    labels, p = faces
    answers = table(labels, p, men=p)
    for i,name in enumerate(('answers', 'labels')):
        (tmp_path/'none.csv').write_text('file,label\n')
        given = [answers, labels]
        given[i] = tmp_path/'none.csv'
        with pytest.raises(ValueError, match='none.csv has no rows'): audit(*given)
        given[i] = labels[:0]
        with pytest.raises(ValueError, match=f'the table of {name} has no rows'): audit(*given)
    for name in ('image_name', 'fname'):
        assert len(audit(answers.assign(a=1)[['a', 'men', 'file']].rename(columns=dict(file=name)), labels).used) == 200

def test_addresses_on_both_sides(faces):
    "Answers of a service about photos in a store: nobody opens them here"
    labels, p = faces
    far = labels.assign(file='s3://photos/' + labels.file)
    assert len(audit(table(far, p, men=p, women=1 - p), far).used) == 200
