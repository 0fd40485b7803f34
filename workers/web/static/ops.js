// Keeps the ops page live: asks for its inside again and brings what is there up to date, element by element, so that
// focus, selection and scrolling stay where they are. Without it the page is the same, and is reloaded by hand.
"use strict";

const EVERY_MS = 2000;
const GIVE_UP_MS = 15000;

const inside = document.getElementById("now");
const live = document.getElementById("live");
let timer;
let asking;

async function refresh() {
  clearTimeout(timer);
  if (document.hidden || asking) return;
  asking = new AbortController();
  const deadline = setTimeout(() => asking.abort(), GIVE_UP_MS);
  try {
    const answer = await fetch(inside.dataset.live, { cache: "no-store", signal: asking.signal });
    if (answer.status === 401) location.reload(); // the session is over: the page asks who it is
    if (!answer.ok) throw new Error(answer.statusText);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    update(page.body);
    say(live.dataset.on);
  } catch {
    say(live.dataset.off);
  } finally {
    clearTimeout(deadline);
    asking = undefined;
    if (!document.hidden) timer = setTimeout(refresh, EVERY_MS);
  }
}

function say(text) {
  live.hidden = false;
  if (live.textContent !== text) live.textContent = text;
}

function update(fresh) {
  const focused = document.activeElement;
  merge(inside, fresh);
  // A row that moved took the focus away; one that is gone leaves it to the page.
  if (focused && focused.id && document.activeElement !== focused) {
    document.getElementById(focused.id)?.focus({ preventScroll: true });
  }
}

// Makes the children of `old` those of `fresh`. Elements with an id are found again wherever they stand.
function merge(old, fresh) {
  const named = new Map();
  for (const child of old.children) if (child.id) named.set(child.id, child);
  let at = old.firstChild;
  for (const wanted of [...fresh.childNodes]) {
    let found = wanted.id ? named.get(wanted.id) : at && !at.id && alike(at, wanted) ? at : undefined;
    if (found && !alike(found, wanted)) found = undefined;
    if (!found) {
      old.insertBefore(document.importNode(wanted, true), at);
      continue;
    }
    if (found === at) at = at.nextSibling;
    else old.insertBefore(found, at);
    if (found.nodeType === Node.TEXT_NODE) {
      if (found.data !== wanted.data) found.data = wanted.data;
    } else if (found.nodeType === Node.ELEMENT_NODE) {
      attributes(found, wanted);
      merge(found, wanted);
    }
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

function alike(one, other) {
  return one.nodeType === other.nodeType && one.nodeName === other.nodeName && (one.id || "") === (other.id || "");
}

function attributes(old, fresh) {
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
}

document.addEventListener("visibilitychange", refresh);
refresh();
