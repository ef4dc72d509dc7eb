// Before the shell's htmx begins: it neither makes code of text nor writes styles into the page.
"use strict";

if (window.htmx) Object.assign(window.htmx.config, { allowEval: false, includeIndicatorStyles: false });

// What the shell lets a mouse press, the keyboard presses, too, and it has a name to be read out. Its icons are words.
const ICONS = ".material-symbols-outlined";
const PRESSED = "[x-on\\:click]:not(a[href], button, input, select, textarea, #changelist-filter-close)";
const NAMES = { dock_to_right: "Menu", close: "Close" };

const press = (event) => {
  if (event.target !== event.currentTarget || (event.key !== "Enter" && event.key !== " ")) return;
  event.preventDefault();
  event.currentTarget.click();
};

// The panel of filters is left as a dialog is.
document.addEventListener("keydown", (event) => {
  const panel = document.getElementById("changelist-filter-close");
  if (event.key === "Escape" && panel?.checkVisibility()) panel.click();
});

// What was sent is on its way: a second click would break off its answer and ask the same again. The server does nothing
// twice all the same, so whoever waits for long, or has stopped the page, may send it again.
const SENT_MS = 10000;
const letGo = () => document.querySelectorAll(":is(form, button, input)[aria-busy]").forEach((each) => {
  each.removeAttribute("aria-busy");
});

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (event.defaultPrevented || form.getAttribute("method")?.toLowerCase() !== "post") return;
  if (form.hasAttribute("aria-busy")) {
    event.preventDefault();
    return;
  }
  form.setAttribute("aria-busy", "true");
  event.submitter?.setAttribute("aria-busy", "true");
  setTimeout(letGo, SENT_MS);
});

addEventListener("pageshow", letGo); // who comes back to a page finds it as it was before it was sent

document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll(PRESSED).forEach((each) => {
    each.tabIndex = 0;
    each.setAttribute("role", "button");
    each.addEventListener("keydown", press);
    const known = each.title || NAMES[each.textContent.trim()];
    if (known) each.setAttribute("aria-label", known);
  });
  document.querySelectorAll("#searchbar:not([aria-label])").forEach((field) => {
    field.setAttribute("aria-label", field.placeholder || "Search");
  });
  document.querySelectorAll(`a ${ICONS}, [role=button] ${ICONS}, button ${ICONS}`).forEach((icon) => {
    const control = icon.closest("a, button, [role=button]");
    if (control !== icon && control.textContent.trim() !== icon.textContent.trim()) icon.setAttribute("aria-hidden", "true");
    else if (control.title) control.setAttribute("aria-label", control.title);
  });
});

// The shell has no main landmark and no way around its menu: for people who listen to a page or have no mouse.
addEventListener("DOMContentLoaded", () => {
  (document.getElementById("main") || document.getElementById("page"))?.setAttribute("role", "main");
  const content = document.getElementById("content");
  if (!content) return; // whoever is not logged in has no menu
  content.tabIndex = -1;
  const around = document.createElement("nav");
  const way = document.createElement("a");
  around.setAttribute("aria-label", "Skip");
  way.className = "bo-skip";
  way.href = "#content";
  way.textContent = "Skip to the content";
  around.append(way);
  document.body.prepend(around);
});
