// Before the shell's htmx begins: it neither makes code of text nor writes styles into the page.
"use strict";

if (window.htmx) Object.assign(window.htmx.config, { allowEval: false, includeIndicatorStyles: false });

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
