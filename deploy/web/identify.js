/* Who of the gallery is on a photograph: verdict first, then what it rests on. */

import { byId, element, formOf, kind, named, note, plural, remarks, scale, thumbnail }
  from './dom.js';
import { api, drop, show } from './net.js';
import { Zone } from './zone.js';

const ALL = 'all';

export function oneIn(rate) {
  return `1 in ${Math.round(1 / rate).toLocaleString('en')}`;
}

/* At what the gallery decides, in words, and where that is less strict than `asked`. */
function applied(answer, asked) {
  if (answer.threshold === null) return 'the model has no thresholds';
  const share = answer.fpir < 0.4
    ? `${oneIn(answer.fpir)} is` : `${Math.round(100 * answer.fpir)} % are`;
  const short = answer.fpir > 1.05 * asked // the rate is rounded
    ? ` (the model's thresholds do not reach ${oneIn(asked)})` : '';
  return `threshold ${answer.threshold.toFixed(3)} for `
    + `${plural(answer.gallery_faces, 'enrolled face')}: of people who are not enrolled, `
    + `${share} named${short}`;
}

function verdictOf(face) {
  const { decision, name } = face.verdict;
  if (decision === 'match') return [named(name)];
  return [decision === 'nobody' ? 'Nobody who is enrolled' : 'No decision'];
}

function row(match, threshold) {
  return element('li', { className: 'match' },
    thumbnail(match.name, match.crop),
    element('div', { className: `name ${kind(match.same)}` }, named(match.name)),
    element('div', { className: 'number', textContent: match.cosine.toFixed(3) }),
    scale(match.cosine, match.same, threshold));
}

/* People above the threshold, and those below it whom the operator wants to be shown. */
function rows(face, threshold) {
  const above = face.matches.filter((match) => match.same);
  const below = face.matches.filter((match) => !match.same);
  const list = (matches) => element('ul', {}, ...matches.map((match) => row(match, threshold)));
  const parts = above.length ? [list(above)] : [];
  if (below.length) {
    const text = threshold === null ? 'The most alike' : 'Below the threshold: somebody else';
    parts.push(note(text), list(below));
  }
  return parts;
}

function crop(face) {
  return element('img', {
    className: 'thumb', src: face.crop, alt: 'the face that was looked at', width: 56, height: 56,
  });
}

function drawOne(face, answer, rate) {
  const sort = face.verdict.decision === 'match' ? 'same' : '';
  const verdict = element('div', { className: 'who' }, crop(face),
    element('p', { className: `decision ${sort}` }, ...verdictOf(face)));
  return [verdict, note(rate), ...rows(face, answer.threshold), ...remarks(face)];
}

function drawAll(answer, rate) {
  const people = answer.faces.map((face) => {
    const [best] = face.matches;
    const number = best?.same ? best.cosine.toFixed(3) : '';
    return element('li', { className: 'match' }, crop(face),
      element('div', { className: `name ${best?.same ? 'same' : ''}` },
        `${face.index + 1}: `, ...verdictOf(face)),
      element('div', { className: 'number', textContent: number }));
  });
  const parts = [note(rate), element('ul', {}, ...people)];
  const left = answer.found.length - answer.faces.length;
  if (left > 0) parts.push(note(`${plural(left, 'smaller face')} not looked at; choose one by one`));
  return parts;
}

/* Buttons for the faces of the photograph, on it or, where it is not shown, beside it. */
class Choice {
  constructor(zone, choose) {
    Object.assign(this, { zone, choose, buttons: new Map() });
    this.node = byId('identify-choice');
  }

  clear() {
    this.buttons.clear();
    this.node.replaceChildren();
    this.zone.boxes.replaceChildren();
  }

  /* Once a photograph: a button that is in use must not be replaced. */
  draw(answer) {
    if (this.buttons.size || answer.found.length < 2) return;
    const { found, width, height } = answer;
    const everybody = this.button(ALL, 'Everybody');
    const { visible, boxes } = this.zone;
    const faces = found.map(({ box: [left, top, wide, high], index }) => {
      const button = this.button(index, `${index + 1}`);
      button.setAttribute('aria-label', `Face ${index + 1} of ${found.length}`);
      if (visible) {
        button.style.left = `${100 * left / width}%`;
        button.style.top = `${100 * top / height}%`;
        button.style.width = `${100 * wide / width}%`;
        button.style.height = `${100 * high / height}%`;
      }
      return button;
    });
    if (visible) boxes.replaceChildren(...faces);
    const words = visible ? 'choose one in it, or' : 'choose one:';
    this.node.replaceChildren(
      element('span', { textContent: `${found.length} faces in the photograph; ${words}` }),
      ...(visible ? [] : faces), everybody);
  }

  button(which, text) {
    const button = element('button', { type: 'button', className: 'quiet', textContent: text });
    button.addEventListener('click', () => this.choose(which));
    this.buttons.set(which, button);
    return button;
  }

  mark(which, answer) {
    for (const [key, button] of this.buttons) {
      button.setAttribute('aria-pressed', String(key) === String(which || 0));
    }
    for (const face of answer.faces) {
      const name = face.verdict.name ?? '';
      const button = this.buttons.get(face.index);
      if (!button) continue;
      if (name) button.replaceChildren(named(name));
      const words = name || (face.verdict.decision === 'nobody' ? 'nobody who is enrolled' : '');
      button.setAttribute('aria-label',
        `Face ${face.index + 1} of ${answer.found.length}${words ? `: ${words}` : ''}`);
    }
  }
}

/* Returns what asks again, for when other people are enrolled. */
export function startIdentifying() {
  const result = byId('identify-result');
  let chosen = '';
  const ask = () => {
    const [photograph] = zone.photographs;
    if (!photograph) return;
    const which = chosen;
    const fpir = byId('fpir').value;
    const body = formOf({ photograph, fpir, face: which });
    show(result, (how) => api('/api/identify', { method: 'POST', body, ...how }), (answer) => {
      if (!answer.gallery_faces) return [note('Nobody is enrolled yet; add people under People.')];
      choice.draw(answer);
      choice.mark(which, answer);
      const rate = applied(answer, Number(fpir));
      return which === ALL ? drawAll(answer, rate) : drawOne(answer.faces[0], answer, rate);
    });
  };
  const zone = new Zone('probe', {
    title: 'Who is it?',
    changed: () => {
      chosen = '';
      choice.clear();
      drop(result);
      ask();
    },
  });
  const choice = new Choice(zone, (which) => {
    chosen = which;
    ask();
  });
  byId('fpir').addEventListener('change', ask);
  return ask;
}
