// What a page owes to people who see little or hear it, beside what axe asks for. Returns what is wrong, in words.
(scope) => {
  const wrong = [];
  const root = document.querySelector(scope) || document.body;
  const name = (element) => {
    const text = (element.getAttribute("aria-label") || element.textContent || "").trim().replace(/\s+/g, " ").slice(0, 40);
    return `<${element.tagName.toLowerCase()}${element.id ? `#${element.id}` : ""}${element.className && element.className.baseVal === undefined ? `.${String(element.className).split(" ").join(".")}` : ""}> "${text}"`;
  };
  const seen = (element) => {
    const box = element.getBoundingClientRect();
    const style = getComputedStyle(element);
    return element.checkVisibility() && box.width > 1 && box.height > 1 && style.visibility !== "hidden" && style.display !== "none" && !element.closest(".bo-vh, [aria-hidden='true'], [hidden]");
  };

  // Structure that axe does not ask for.
  root.querySelectorAll("svg:not([aria-hidden]):not([role])").forEach((svg) => {
    if (!svg.closest("[aria-hidden], svg[role]") && !svg.parentElement.closest("svg")) wrong.push(`a drawing without a role: ${svg.outerHTML.slice(0, 80)}`);
  });
  root.querySelectorAll("svg[role=img] a, svg[role=img] [tabindex]").forEach((inner) => wrong.push(`can be focused inside an image: ${name(inner)}`));
  root.querySelectorAll("table").forEach((table) => {
    if (table.closest("#changelist, #result_list")) return;
    if (!table.querySelector("caption")) wrong.push(`a table without a caption: ${table.className}`);
    table.querySelectorAll("th:not([scope])").forEach((head) => wrong.push(`a head without a scope: ${name(head)}`));
  });
  const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
  ids.filter((id, index) => id && ids.indexOf(id) !== index).forEach((id) => wrong.push(`twice: #${id}`));

  // Contrast of every text against what is painted behind it.
  const parse = (value) => {
    const found = (value || "").match(/rgba?\(([^)]+)\)/);
    if (!found) return null;
    const [r, g, b, a = 1] = found[1].split(/[\s,/]+/).filter(Boolean).map(Number);
    return { r, g, b, a };
  };
  const over = (top, below) => ({
    r: top.r * top.a + below.r * (1 - top.a), g: top.g * top.a + below.g * (1 - top.a), b: top.b * top.a + below.b * (1 - top.a), a: 1,
  });
  const light = ({ r, g, b }) => {
    const [x, y, z] = [r, g, b].map((part) => {
      const share = part / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const contrast = (one, other) => {
    const [high, low] = [light(one), light(other)].sort((a, b) => b - a);
    return (high + 0.05) / (low + 0.05);
  };
  const SHAPES = new Set(["rect", "path", "circle"]);
  const painted = (element) => {
    const style = getComputedStyle(element);
    if (element instanceof SVGElement && SHAPES.has(element.tagName)) {
      const fill = parse(style.fill);
      return fill ? { ...fill, a: fill.a * Number(style.fillOpacity) * Number(style.opacity) } : null;
    }
    return element instanceof SVGElement ? null : parse(style.backgroundColor);
  };
  const behind = (element, x, y) => {
    const layers = [];
    for (const below of document.elementsFromPoint(x, y)) {
      if (below === element || element.contains(below)) {
        if (below !== element || element instanceof SVGElement) continue;
      }
      const colour = painted(below);
      if (colour && colour.a > 0) {
        layers.push(colour);
        if (colour.a >= 1) break;
      }
    }
    return layers.reverse().reduce((below, top) => over(top, below), { r: 255, g: 255, b: 255, a: 1 });
  };
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  let looked = 0;
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.textContent.trim() || !element || !seen(element) || ["TITLE", "title", "STYLE", "SCRIPT", "OPTION"].includes(element.tagName)) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const box = range.getClientRects()[0];
    if (!box || box.width < 1 || box.right < 0 || box.left > innerWidth || box.bottom > innerHeight || box.top < 0) continue;
    const [x, y] = [Math.min(box.left + 2, innerWidth - 1), box.top + box.height / 2];
    const top = document.elementFromPoint(x, y);
    if (!top || !(top === element || element.contains(top) || top.contains(element) || top.closest("a, label") === element.closest("a, label"))) continue;
    const style = getComputedStyle(element);
    const ink = parse(element instanceof SVGElement ? style.fill : style.color);
    if (!ink) continue;
    looked += 1;
    const ground = behind(element, x, y);
    const size = parseFloat(style.fontSize);
    const big = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    const found = contrast(over(ink, ground), ground);
    if (found < (big ? 3 : 4.5)) wrong.push(`contrast ${found.toFixed(2)}: ${name(element)} ${JSON.stringify(ink)} on ${JSON.stringify(ground)}`);
  }
  return { wrong, looked };
}
