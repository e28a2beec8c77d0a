/* The page: tabs, rates, and what is shown before anything is asked. */

import { byId, element } from './dom.js';
import { startComparing } from './compare.js';
import { oneIn, startIdentifying } from './identify.js';
import { api, limitTo, show } from './net.js';
import { startPeople } from './people.js';

const tabs = [...document.querySelectorAll('[role=tab]')];
let identifyAgain = () => {}; // after a change of the gallery

function chooseTab(chosen) {
  for (const tab of tabs) {
    tab.setAttribute('aria-selected', tab === chosen);
    tab.tabIndex = tab === chosen ? 0 : -1; // the arrows lead to the others
    byId(tab.dataset.tab).hidden = tab !== chosen;
  }
  if (chosen.dataset.tab === 'identify') identifyAgain();
  for (const label of document.querySelectorAll('[data-rate]')) {
    const usable = label.querySelector('option') !== null;
    label.hidden = !usable || label.dataset.rate !== chosen.dataset.tab;
  }
}

function onTabKey(event) {
  const now = tabs.indexOf(event.currentTarget);
  const next = {
    ArrowRight: (now + 1) % tabs.length,
    ArrowLeft: (now + tabs.length - 1) % tabs.length,
    Home: 0,
    End: tabs.length - 1,
  }[event.key];
  if (next === undefined) return;
  event.preventDefault();
  tabs[next].focus();
  chooseTab(tabs[next]);
}

/* Rates to choose from, as "1 in N". */
function offer(id, rates, chosen) {
  for (const rate of rates) {
    byId(id).append(element('option', { value: rate, textContent: oneIn(rate) }));
  }
  if (rates.length) byId(id).value = chosen;
}

/* A photograph that is dropped beside the fields must not take the place of the page. */
function catchDrops() {
  window.addEventListener('dragover', (event) => event.preventDefault());
  window.addEventListener('drop', (event) => {
    event.preventDefault();
    byId('notice').textContent = 'Drop photographs into one of the fields.';
  });
  window.addEventListener('dragenter', () => { byId('notice').textContent = ''; });
}

function begin(info) {
  limitTo(info.max_bytes);
  byId('model').textContent = `Model ${info.model}, engine ${info.backend}`;
  byId('kept').textContent = info.crops_kept
    ? 'Photographs are not kept; enrolling keeps the aligned face and its embedding on the server.'
    : 'Photographs are not kept; enrolling keeps the embedding of the face on the server.';
  offer('far', Object.keys(info.thresholds), info.far);
  offer('fpir', info.fpirs, info.fpir);
  startComparing();
  const identify = startIdentifying();
  startPeople(info, () => {
    identifyAgain = () => {
      identifyAgain = () => {};
      identify();
    };
  });
  chooseTab(tabs[0]);
  return [];
}

for (const tab of tabs) {
  tab.addEventListener('click', () => chooseTab(tab));
  tab.addEventListener('keydown', onTabKey);
}
catchDrops();
show(byId('notice'), (how) => api('/api/info', how), begin);
byId('camera-close').addEventListener('click', () => byId('camera').close());
