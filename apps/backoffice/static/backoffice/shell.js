// Before the shell's htmx begins: it neither makes code of text nor writes styles into the page.
"use strict";

if (window.htmx) Object.assign(window.htmx.config, { allowEval: false, includeIndicatorStyles: false });
