// Keeps a page young: asks for its parts again, swaps those that changed, and says so when it cannot.
// Without this script the page is complete, and as old as it is. The event stream takes this file's place later.
"use strict";

(() => {
  const STALE_MS = 5000; // after this long without news the page may not look live
  const TRIES_WAIT_MAX_MS = 15000; // between two attempts to reach a server that is away

  const SCROLLS = ".bo-gantt, .bo-map, .bo-scroll"; // what may be scrolled sideways stays where it is

  const root = document.querySelector("[data-live-url]");
  if (!root) return;
  const pill = document.querySelector("[data-live-pill]");
  const every = Math.max(Number(root.dataset.liveMs) || 1000, 500);
  let newest = Date.now();
  let wait = every;
  let timer = 0;
  let tag = ""; // of the parts that are shown: who has them already is answered without a body

  const say = (text, mark) => {
    if (!pill) return;
    pill.hidden = false;
    pill.toggleAttribute("data-stale", mark === "stale");
    pill.toggleAttribute("data-over", mark === "over");
    if (pill.lastChild.textContent !== text) pill.lastChild.textContent = text;
  };

  const busy = (part) => {
    const selection = window.getSelection();
    return part.contains(document.activeElement)
      || (selection && !selection.isCollapsed && part.contains(selection.anchorNode));
  };

  // Swap leaves, not the page: focus, a selection and opened details survive.
  const swap = (html) => {
    let whole = true; // what somebody is busy with is left as it is, and asked for again
    const fresh = new DOMParser().parseFromString(html, "text/html");
    fresh.querySelectorAll("[data-live-part]").forEach((part) => {
      const old = document.getElementById(part.id);
      if (!old) return;
      if (busy(old)) {
        whole = false;
        return;
      }
      old.querySelectorAll("details[open][id]").forEach((open) => {
        const same = part.querySelector(`details[id="${open.id}"]`);
        if (same) same.open = true;
      });
      if (old.outerHTML === part.outerHTML) return;
      const scrolled = [...old.querySelectorAll(SCROLLS)].map((each) => each.scrollLeft);
      old.replaceWith(part);
      part.querySelectorAll(SCROLLS).forEach((each, index) => { each.scrollLeft = scrolled[index] ?? 0; });
    });
    return { whole, goesOn: fresh.querySelector("[data-live-over]") === null };
  };

  const ask = async () => {
    const headers = tag ? { "If-None-Match": tag } : {};
    const response = await fetch(root.dataset.liveUrl, {
      cache: "no-store", credentials: "same-origin", headers, redirect: "manual",
    });
    if (response.type === "opaqueredirect" || response.status === 403) {
      say("Session ended, load the page again", "stale");
      return false;
    }
    if (!response.ok && response.status !== 304) throw new Error(String(response.status));
    const { whole, goesOn } = response.status === 304 ? { whole: true, goesOn: true } : swap(await response.text());
    if (response.status !== 304) tag = whole ? response.headers.get("ETag") ?? "" : "";
    const at = response.headers.get("X-Live-At");
    if (at) document.querySelectorAll("[data-live-at]").forEach((place) => { place.textContent = at; });
    newest = Date.now();
    wait = every;
    say(goesOn ? "Live" : "Finished", goesOn ? "" : "over");
    return goesOn;
  };

  const turn = async () => {
    timer = 0;
    let goesOn = true;
    try {
      goesOn = await ask();
    } catch {
      wait = Math.min(wait * 2, TRIES_WAIT_MAX_MS);
      const age = Date.now() - newest;
      if (age > STALE_MS) say(`${Math.round(age / 1000)} s old`, "stale");
    }
    if (goesOn && !document.hidden) timer = window.setTimeout(turn, wait);
    else if (!goesOn) document.removeEventListener("visibilitychange", wake);
  };

  // Nobody looks at a hidden page: it rests, and catches up when it is seen again.
  function wake() {
    if (document.hidden) {
      window.clearTimeout(timer);
      timer = 0;
    } else if (!timer) {
      turn();
    }
  }

  document.addEventListener("visibilitychange", wake);
  say("Live", "");
  timer = window.setTimeout(turn, every);

  // A narrow screen begins where the run is now, and not where it began.
  const gantt = document.querySelector(".bo-gantt");
  if (gantt) gantt.scrollLeft = (gantt.scrollWidth * Number(gantt.dataset.focus)) / 100 - gantt.clientWidth * 0.8;
})();
