/* Who is enrolled: enrol, remove, and take a removal back. */

import { byId, element, formOf, named, note, plural, thumbnail } from './dom.js';
import { api, progress } from './net.js';
import { Zone } from './zone.js';

/* "Ada_Lovelace_0001.jpg" -> "Ada Lovelace" */
function nameOf(file) {
  const base = file.name.replace(/\.[^.]*$/, '');
  const words = base.replace(/[_\s]+/g, ' ').trim();
  return words.replace(/[\s-]*\(?\d+\)?$/, '').trim() || words;
}

const state = {
  identities: new Map(), // name -> number of faces
  removed: new Map(), // name -> what takes it back
  crops: false,
  busy: false,
  changed: () => {},
};

function say(...content) {
  byId('enrol-message').replaceChildren(...content);
}

/* Draws the list anew and leaves the focus where it was, or at `focus`. */
function draw(focus = document.activeElement?.dataset.key) {
  const list = byId('identities');
  const names = [...new Set([...state.identities.keys(), ...state.removed.keys()])];
  names.sort((a, b) => a.localeCompare(b));
  list.replaceChildren(...names.map((name) =>
    state.removed.has(name) ? goneRow(name) : personRow(name)));
  byId('count').textContent = plural(state.identities.size, 'person', 'people');
  const buttons = [...list.querySelectorAll('button')];
  if (focus) (buttons.find((button) => button.dataset.key === focus) || byId('name')).focus();
}

function take(identities, focus) {
  state.identities = new Map(Object.entries(identities));
  state.changed();
  for (const name of state.identities.keys()) state.removed.delete(name);
  draw(focus);
}

function personRow(name) {
  const faces = state.identities.get(name);
  const source = state.crops && `/api/thumbnail?${new URLSearchParams({ name })}`;
  const button = element('button', {
    type: 'button', className: 'quiet bad', textContent: 'Remove', 'aria-label': `Remove ${name}`,
  });
  button.dataset.key = `remove ${name}`;
  button.addEventListener('click', () => remove(name));
  return element('li', {}, thumbnail(name, source),
    element('span', { className: 'name' }, named(name), faces > 1 ? ` (${faces} faces)` : ''),
    button);
}

function goneRow(name) {
  const button = element('button', {
    type: 'button', className: 'quiet', textContent: 'Undo', 'aria-label': `Undo: keep ${name}`,
  });
  button.dataset.key = `undo ${name}`;
  button.addEventListener('click', () => undo(name));
  return element('li', { className: 'gone' },
    element('span', { className: 'name' }, named(name), ' is removed'), button);
}

/* Sends one request at a time; what goes wrong is said. */
async function change(path, options, done) {
  if (state.busy) return;
  state.busy = true;
  const { nodes, tell } = progress('Working …');
  say(...nodes);
  try {
    done(await api(path, { ...options, tell }));
  } catch (error) {
    say(note(error.message, 'error'));
  } finally {
    state.busy = false;
  }
}

function remove(name) {
  const path = `/api/identities?${new URLSearchParams({ name })}`;
  return change(path, { method: 'DELETE' }, (answer) => {
    const ticket = answer.undo;
    state.removed.set(name, ticket);
    setTimeout(() => {
      if (state.removed.get(name) !== ticket) return;
      state.removed.delete(name);
      draw();
    }, 1000 * answer.undo_seconds);
    take(answer.identities, `undo ${name}`);
    say(element('p', {}, named(name), ` is removed; ${answer.undo_seconds} s to undo it`));
  });
}

function undo(name) {
  const body = formOf({ undo: state.removed.get(name) });
  return change('/api/undo', { method: 'POST', body }, (answer) => {
    take(answer.identities, `remove ${name}`);
    say(element('p', {}, named(name), ' is enrolled again'));
  });
}

function enrolment({ name, file }, force) {
  return { method: 'POST', body: formOf({ name, photograph: file, force }) };
}

/* Enrols in turn; returns [names that are, jobs that are not, with their error]. */
async function enrolEach(jobs) {
  const done = [];
  const refused = [];
  for (const [index, job] of jobs.entries()) {
    const count = jobs.length > 1 ? ` ${index + 1} of ${jobs.length}` : '';
    const { nodes, tell } = progress(`Enrolling${count} …`);
    say(...nodes);
    try {
      take((await api('/api/enrol', { ...enrolment(job, ''), tell })).identities);
      done.push(job.name);
    } catch (error) {
      refused.push({ ...job, error });
    }
  }
  return [done, refused];
}

function refusedRow(job, enrolled) {
  const row = element('li', {}, element('span', { className: 'name error' },
    named(job.name), ' (', named(job.file.name), `): ${job.error.message}`));
  if (!job.error.doubtful && !job.error.again) return row;
  const text = job.error.doubtful ? 'Enrol all the same' : 'Try again';
  const button = element('button', {
    type: 'button', className: 'quiet', textContent: text, 'aria-label': `${text}: ${job.name}`,
  });
  const body = enrolment(job, job.error.doubtful ? '1' : '');
  button.addEventListener('click', () => change('/api/enrol', body, (answer) => {
    take(answer.identities);
    row.remove();
    enrolled([job.name]);
  }));
  row.append(button);
  return row;
}

function sayEnrolled(names) {
  const people = [...new Set(names)];
  if (people.length === 1) say(element('p', {}, named(people[0]), ' is enrolled'));
  else say(note(`${people.length} people are enrolled`));
}

/* `changed` is called whenever somebody is enrolled or removed. */
export function startPeople(info, changed) {
  const [form, field, byFile, refusals] = ['enrol', 'name', 'by-file', 'refused'].map(byId);
  state.crops = info.crops_kept;
  const plan = () => {
    field.disabled = byFile.checked;
    const names = [...new Set(zone.photographs.map(nameOf))];
    byId('plan').textContent = byFile.checked && names.length
      ? `Names: ${names.join(', ')}`
      : zone.photographs.length > 1
        ? `${zone.photographs.length} photographs of one person` : '';
  };
  const zone = new Zone('portrait', { title: 'Portraits', most: Infinity, changed: plan });
  const enrolled = (names) => {
    form.reset();
    zone.clear();
    plan();
    sayEnrolled(names);
    field.focus();
  };
  byFile.addEventListener('change', plan);
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    if (state.busy) return;
    if (!zone.photographs.length) {
      say(note('Choose a portrait first', 'error'));
      zone.input.focus();
      return;
    }
    state.busy = true;
    refusals.replaceChildren();
    const name = field.value.trim();
    const jobs = zone.photographs.map((file) => (
      { file, name: byFile.checked ? nameOf(file) : name }));
    const [done, refused] = await enrolEach(jobs);
    state.busy = false;
    refusals.replaceChildren(...refused.map((job) => refusedRow(job, enrolled)));
    if (done.length) enrolled(done);
    else say(note(`Nobody is enrolled${jobs.length > 1 ? ` of ${jobs.length}` : ''}`, 'error'));
  });
  take(info.identities);
  state.changed = changed;
}
