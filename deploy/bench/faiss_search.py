"""Exhaustive search by faiss and usearch, for `bench search --faiss-python`.

Run as a program by a Python that has both, which ours need not have; so of ours it imports
`answers.py` alone.

    PYTHON -I faiss_search.py check OPTIONS     versions, and the best score of the first rows by
                                                every search, as JSON
    PYTHON -I faiss_search.py search OPTIONS    one search again and again, as `child.Program` says

OPTIONS is a JSON object: `rows` and `columns` (.npy files of float32 (N, D) and (M, D)), `threads`,
for check `count` (of rows), for search `name` (of SEARCHES) and `threshold`.
"""

import json
import os
import sys

try:
    import faiss
    import numpy as np
    import usearch
    import usearch.index
except ImportError as error:
    sys.stderr.write(
        f'{sys.executable}: {error}; {sys.executable} -m pip install faiss-cpu usearch\n'
    )
    raise SystemExit(2) from None

sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # which -I leaves out
from answers import answer_with_times, open_answers


def flat(columns):
    index = faiss.IndexFlatIP(columns.shape[1])
    index.add(columns)
    return index


def all_above(columns, _threads):
    """Every pair above the threshold, as our kernels find them."""
    return flat(columns).range_search


def best_above(found):
    limits, scores, _ = found
    return np.array([scores[a:b].max(initial=-1) for a, b in zip(limits[:-1], limits[1:])])


def best_of_each(columns, _threads):
    """The best column of each row."""
    index = flat(columns)
    return lambda rows, _: index.search(rows, 1)


def best_by_usearch(columns, threads):
    options = {'metric': usearch.index.MetricKind.IP, 'exact': True, 'threads': threads}
    return lambda rows, _: usearch.index.search(columns, rows, 1, **options)


# name -> (what makes a search, which alone is timed; the best score of each row in what it gives)
SEARCHES = {
    'faiss IndexFlatIP range_search': (all_above, best_above),
    'faiss IndexFlatIP search, best': (best_of_each, lambda found: found[0][:, 0]),
    'usearch exact, best': (best_by_usearch, lambda found: 1 - found.distances.reshape(-1)),
}


def main(what, options):
    answers = open_answers()
    threads = options['threads']
    faiss.omp_set_num_threads(threads)
    rows, columns = (np.load(options[side]) for side in ('rows', 'columns'))
    if what == 'check':
        some = rows[: options['count']]
        best = {
            name: best_in(make(columns, threads)(some, -2.0)).tolist()
            for name, (make, best_in) in SEARCHES.items()
        }
        versions = {'faiss': faiss.__version__, 'usearch': usearch.__version__}
        answers.write(json.dumps({'versions': versions, 'best': best}) + '\n')
        answers.close()
    else:
        search = SEARCHES[options['name']][0](columns, threads)
        answer_with_times(lambda: search(rows, options['threshold']), answers)


if __name__ == '__main__':
    main(sys.argv[1], json.loads(sys.argv[2]))
