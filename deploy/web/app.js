'use strict';

const byId = (id) => document.getElementById(id);
const PICTURES = 'image/jpeg,image/png,image/webp,image/bmp,image/tiff';
const photographs = {}; // drop zone -> File
let maxBytes = Infinity;

function element(tag, attributes = {}, ...children) {
  const node = Object.assign(document.createElement(tag), attributes);
  node.append(...children);
  return node;
}

async function api(path, options) {
  const files = [...(options?.body || [])].map(([, value]) => value.size || 0);
  if (files.reduce((sum, size) => sum + size, 0) > maxBytes) {
    throw new Error(`more than ${maxBytes >> 20} MB; make the photographs smaller`);
  }
  const response = await fetch(path, options);
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) {
    const error = new Error(answer.error || `the server answered ${response.status}`);
    throw Object.assign(error, { doubtful: Boolean(answer.doubtful) });
  }
  return answer;
}

function formOf(fields) {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) form.append(name, value);
  return form;
}

/* Shows a message in place of a result; a newer request makes older answers void. */
const turns = new Map();
async function show(target, ask, draw) {
  const turn = (turns.get(target) || 0) + 1;
  turns.set(target, turn);
  target.replaceChildren(element('p', { className: 'note busy', textContent: 'Looking …' }));
  let content;
  try {
    content = draw(await ask());
  } catch (error) {
    content = [element('p', { className: 'note error', textContent: error.message })];
  }
  if (turns.get(target) === turn) target.replaceChildren(...content);
}

function kind(same) {
  return same === null ? '' : same ? 'same' : 'different';
}

/* Cosine -1..1 as a bar, with the threshold as a mark. */
function scale(answer, threshold) {
  const percent = (cosine) => `${Math.max(0, Math.min(100, 50 + 50 * cosine))}%`;
  const value = element('div', { className: 'value' });
  value.style.width = percent(answer.cosine);
  const bar = element('div', { className: `scale ${kind(answer.same)}` }, value);
  if (threshold !== null) {
    const mark = element('div', { className: 'mark', title: `threshold ${threshold.toFixed(3)}` });
    mark.style.left = percent(threshold);
    bar.append(mark);
  }
  return bar;
}

/* What is to be said of the faces that were found: several, turned, poor. */
function notes(faces) {
  const many = faces.filter((face) => face.count > 1).map((face) => face.count);
  const texts = many.length
    ? [`${many.join(' and ')} faces in a photograph; the largest one counts`] : [];
  for (const face of faces) {
    if (face.turned) texts.push(`found with the picture turned by ${face.turned} degrees`);
    const quality = `quality ${face.quality.toFixed(2)}`;
    texts.push(...face.reasons.map((reason) => `${quality}: ${reason}`));
  }
  return texts.map((text) => element('p', { className: 'note', textContent: text }));
}

function drawComparison(answer) {
  const words = { same: 'Same person', different: 'Different people', '': 'No decision' };
  const sort = kind(answer.same);
  const crops = answer.faces.map((face) =>
    element('img', { src: face.crop, alt: 'aligned face', width: 112, height: 112 }));
  const numbers = answer.threshold === null
    ? `cosine ${answer.cosine.toFixed(3)}; the model has no thresholds`
    : `cosine ${answer.cosine.toFixed(3)}, threshold ${answer.threshold.toFixed(3)}`;
  const verdict = element('div', { className: 'verdict' }, crops[0],
    element('div', {},
      element('div', { className: `decision ${sort}`, textContent: words[sort] }),
      element('div', { className: 'number', textContent: numbers })), crops[1]);
  const ends = element('div', { className: 'ends' },
    element('span', { textContent: 'unlike' }), element('span', { textContent: 'alike' }));
  return [verdict, scale(answer, answer.threshold), ends, ...notes(answer.faces)];
}

function oneIn(rate) {
  return `1 in ${Math.round(1 / rate).toLocaleString('en')}`;
}

/* At what a gallery decides, in words. */
function applied(answer) {
  if (answer.threshold === null) return 'the model has no thresholds';
  const among = `${answer.gallery_faces} enrolled ${answer.gallery_faces === 1 ? 'face' : 'faces'}`;
  const share = answer.fpir < 0.4
    ? `${oneIn(answer.fpir)} is` : `${Math.round(100 * answer.fpir)} % are`;
  return `threshold ${answer.threshold.toFixed(3)} for ${among}: of people who are not enrolled, `
    + `${share} named`;
}

function drawMatches(answer) {
  if (!answer.gallery_faces) {
    const text = 'Nobody is enrolled yet; add people under People.';
    return [element('p', { className: 'note', textContent: text })];
  }
  const [face] = answer.faces;
  const words = { match: face.verdict.name, nobody: 'Nobody who is enrolled' };
  const verdict = element('p', { className: 'decision',
    textContent: words[face.verdict.decision] || 'No decision' });
  const rows = face.matches.map((match) => element('div', { className: 'match' },
    match.crop
      ? element('img', { src: match.crop, alt: '', width: 56, height: 56 })
      : element('div', { className: 'blank' }),
    element('div', { className: `name ${kind(match.same)}`, textContent: match.name }),
    element('div', { className: 'number', textContent: match.cosine.toFixed(3) }),
    scale(match, answer.threshold)));
  const rate = element('p', { className: 'note', textContent: applied(answer) });
  return [verdict, ...rows, rate, ...notes([face])];
}

function compare() {
  const { first, second } = photographs;
  if (!first || !second) return;
  const body = formOf({ first, second, far: byId('far').value });
  show(byId('compare-result'), () => api('/api/compare', { method: 'POST', body }), drawComparison);
}

function identify() {
  if (!photographs.probe) return;
  const body = formOf({ photograph: photographs.probe, fpir: byId('fpir').value });
  show(byId('identify-result'), () => api('/api/identify', { method: 'POST', body }), drawMatches);
}

function drawPeople(identities) {
  byId('identities').replaceChildren(...Object.entries(identities).map(([name, faces]) => {
    const remove = element('button', { type: 'button', textContent: 'Remove' });
    remove.setAttribute('aria-label', `Remove ${name}`);
    remove.addEventListener('click', () => {
      const path = `/api/identities?${new URLSearchParams({ name })}`;
      say(() => api(path, { method: 'DELETE' }), `${name} is removed`);
    });
    return element('li', {},
      element('span', { textContent: faces > 1 ? `${name} (${faces} faces)` : name }), remove);
  }));
}

async function say(ask, success) {
  const message = byId('enrol-message');
  message.className = 'message';
  byId('insist').hidden = true;
  message.textContent = 'Working …';
  try {
    drawPeople((await ask()).identities);
    message.textContent = success;
  } catch (error) {
    message.className = 'message error';
    message.textContent = error.message;
    byId('insist').hidden = !error.doubtful;
  }
}

function enrol(force) {
  const name = byId('name').value.trim();
  const photograph = photographs.portrait;
  say(() => {
    if (!photograph) throw new Error('drop a portrait first');
    return api('/api/enrol', { method: 'POST', body: formOf({ name, photograph, force }) });
  }, `${name} is enrolled`);
}

function dropZone(id, changed) {
  const zone = byId(id);
  const input = element('input', { type: 'file', accept: PICTURES });
  input.setAttribute('aria-label', zone.textContent.trim());
  zone.append(input);
  const take = (file) => {
    if (!file) return;
    const photo = zone.querySelector('.photo') || element('img', { className: 'photo', alt: '' });
    if (photo.src) URL.revokeObjectURL(photo.src);
    photo.src = URL.createObjectURL(file);
    zone.querySelector('span')?.replaceWith(photo);
    zone.classList.add('full');
    photographs[id] = file;
    changed();
  };
  input.addEventListener('change', () => take(input.files[0]));
  for (const type of ['dragenter', 'dragover']) {
    zone.addEventListener(type, (event) => { event.preventDefault(); zone.classList.add('over'); });
  }
  for (const type of ['dragleave', 'drop']) {
    zone.addEventListener(type, () => zone.classList.remove('over'));
  }
  zone.addEventListener('drop', (event) => {
    event.preventDefault();
    take(event.dataTransfer.files[0]);
  });
}

function chooseTab(name) {
  for (const tab of document.querySelectorAll('[data-tab]')) {
    const chosen = tab.dataset.tab === name;
    tab.setAttribute('aria-selected', chosen);
    byId(tab.dataset.tab).hidden = !chosen;
  }
  for (const label of document.querySelectorAll('[data-rate]')) {
    const usable = label.querySelector('option') !== null;
    label.hidden = !usable || label.dataset.rate !== name;
  }
}

/* Rates to choose from, as "1 in N". */
function offer(id, rates, chosen) {
  for (const rate of rates) {
    byId(id).append(element('option', { value: rate, textContent: oneIn(rate) }));
  }
  if (rates.length) byId(id).value = chosen;
}

async function start() {
  dropZone('first', compare);
  dropZone('second', compare);
  dropZone('probe', identify);
  dropZone('portrait', () => {});
  byId('enrol').addEventListener('submit', (event) => { event.preventDefault(); enrol(''); });
  byId('insist').addEventListener('click', () => enrol('1'));
  byId('far').addEventListener('change', compare);
  byId('fpir').addEventListener('change', identify);
  for (const tab of document.querySelectorAll('[data-tab]')) {
    tab.addEventListener('click', () => chooseTab(tab.dataset.tab));
  }
  const info = await api('/api/info');
  maxBytes = info.max_bytes;
  byId('model').textContent = `${info.model} in ${info.backend}`;
  drawPeople(info.identities);
  offer('far', Object.keys(info.thresholds), info.far);
  offer('fpir', info.fpirs, info.fpir);
  chooseTab('compare');
}

start();
