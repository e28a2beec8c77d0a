/* Two photographs: one person or two. */

import { Choice } from './choice.js';
import { byId, element, formOf, kind, remarks, scale } from './dom.js';
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
  return [verdict, scale(answer.cosine, answer.same, answer.threshold), ends,
    ...answer.faces.flatMap(remarks)];
}

/* A field with the choice of a face; `changed` hears that another photograph or face counts. */
class Side {
  constructor(id, title, changed, more = {}) {
    this.face = '';
    this.zone = new Zone(id, {
      title,
      ...more,
      changed: () => {
        this.face = '';
        this.choice.clear();
        changed();
      },
    });
    this.choice = new Choice(this.zone, byId(`${id}-choice`), (face) => {
      this.face = face;
      changed();
    });
  }

  show(picture) {
    this.choice.draw(picture);
    this.choice.mark(this.face);
  }
}

export function startComparing() {
  const compare = () => {
    const [a] = first.zone.photographs;
    const [b] = second.zone.photographs;
    if (!a || !b) return;
    const body = formOf({
      first: a, second: b, first_face: first.face, second_face: second.face, far: byId('far').value,
    });
    show(byId('compare-result'), (how) => api('/api/compare', { method: 'POST', body, ...how }),
      (answer) => {
        for (const [index, side] of [first, second].entries()) side.show(answer.pictures[index]);
        return draw(answer);
      });
  };
  const second = new Side('second', 'Second photograph', compare);
  const first = new Side('first', 'First photograph', compare, {
    several: true,
    spare: ([next, ...rest]) => {
      second.zone.take([next]);
      return rest;
    },
  });
  byId('far').addEventListener('change', compare);
}
