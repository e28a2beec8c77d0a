/* Two photographs: one person or two. */

import { byId, element, formOf, kind, note, plural, remarks, scale } from './dom.js';
import { api, show } from './net.js';
import { Zone } from './zone.js';

const WORDS = { same: 'Same person', different: 'Different people', '': 'No decision' };

function draw(answer) {
  const sort = kind(answer.same);
  const crops = answer.faces.map((face, index) => element('img', {
    src: face.crop, alt: `face of the ${['first', 'second'][index]} photograph`,
    width: 112, height: 112,
  }));
  const numbers = answer.threshold === null
    ? `cosine ${answer.cosine.toFixed(3)}; the model has no thresholds`
    : `cosine ${answer.cosine.toFixed(3)}, threshold ${answer.threshold.toFixed(3)}`;
  const verdict = element('div', { className: 'verdict' }, crops[0],
    element('div', {},
      element('div', { className: `decision ${sort}`, textContent: WORDS[sort] }),
      element('div', { className: 'number', textContent: numbers })), crops[1]);
  const ends = element('div', { className: 'ends' },
    element('span', { textContent: '0, unlike' }), element('span', { textContent: '1, alike' }));
  const groups = answer.faces.filter((face) => face.count > 1).map((face) =>
    note(`${plural(face.count, 'face')} in a photograph; the largest counts`));
  return [verdict, scale(answer.cosine, answer.same, answer.threshold), ends, ...groups,
    ...answer.faces.flatMap(remarks)];
}

export function startComparing() {
  const compare = () => {
    const [a] = first.photographs;
    const [b] = second.photographs;
    if (!a || !b) return;
    const body = formOf({ first: a, second: b, far: byId('far').value });
    show(byId('compare-result'),
      (how) => api('/api/compare', { method: 'POST', body, ...how }), draw);
  };
  const second = new Zone('second', { title: 'Second photograph', changed: compare });
  const first = new Zone('first', {
    title: 'First photograph',
    several: true,
    changed: compare,
    spare: ([next, ...rest]) => {
      second.take([next]);
      return rest;
    },
  });
  byId('far').addEventListener('change', compare);
}
