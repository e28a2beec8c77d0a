/* Who of the gallery is on a photograph: verdict first, then what it rests on. */

import { ALL, Choice } from './choice.js';
import { byId, element, formOf, kind, named, note, plural, remarks, scale, thumbnail }
  from './dom.js';
import { api, drop, show } from './net.js';
import { Zone } from './zone.js';

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

function nameIn(choice, { index, verdict: { decision, name } }) {
  const words = decision === 'nobody' ? 'nobody who is enrolled' : '';
  choice.name(index, name ?? '', name ?? words);
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
      choice.mark(which);
      for (const face of answer.faces) nameIn(choice, face);
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
  const choice = new Choice(zone, byId('identify-choice'), (which) => {
    chosen = which;
    ask();
  }, true);
  byId('fpir').addEventListener('change', ask);
  return ask;
}
