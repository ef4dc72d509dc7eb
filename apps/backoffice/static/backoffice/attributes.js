// The shell's Alpine makes functions of the text of attributes, for which a page would have to allow 'unsafe-eval'.
// This reads the little language in which those attributes are written, and does what they say: no code is made of text.
// What it does not know it reports as an error of the console, and the browser tests fail on any.
"use strict";

(() => {
  // All that attributes of the shell call or read beside their own data.
  const GLOBALS = new Set(["localStorage", "window", "theme", "searchForm", "searchDropdown", "searchCommand", "getCurrentTab",
    "sortRecords", "moveRecords"]);
  // The window is for addresses alone; and nobody climbs from a value to what makes functions.
  const WINDOW = new Set(["location", "matchMedia"]);
  const NEVER = new Set(["constructor", "prototype", "__proto__"]);
  const TOKEN = /\s*(?:([A-Za-z_$][\w$]*)|(\d+(?:\.\d+)?)|('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")|(=>|===|!==|==|!=|<=|>=|&&|\|\||\?\?|\?\.|[-+*/%<>=!?:;,.()[\]{}]))/y;
  const LEVELS = [["||", "??"], ["&&"], ["===", "!==", "==", "!="], ["<", ">", "<=", ">="], ["+", "-"], ["*", "/", "%"]];
  const DO = {
    "===": (a, b) => a === b, "!==": (a, b) => a !== b, "==": (a, b) => a == b, "!=": (a, b) => a != b,
    "<": (a, b) => a < b, ">": (a, b) => a > b, "<=": (a, b) => a <= b, ">=": (a, b) => a >= b,
    "+": (a, b) => a + b, "-": (a, b) => a - b, "*": (a, b) => a * b, "/": (a, b) => a / b, "%": (a, b) => a % b,
  };
  const WORDS = { true: true, false: false, null: null, undefined: undefined };

  const split = (text) => {
    const found = [];
    const end = text.trimEnd().length;
    TOKEN.lastIndex = 0;
    while (TOKEN.lastIndex < end) {
      const from = TOKEN.lastIndex;
      const part = TOKEN.exec(text);
      if (!part) throw new SyntaxError(`cannot read "${text.slice(from, from + 40)}"`);
      const [, name, number, quoted, sign] = part;
      if (name !== undefined) found.push({ name });
      else if (number !== undefined) found.push({ value: Number(number) });
      else if (quoted !== undefined) found.push({ value: quoted.slice(1, -1).replace(/\\(.)/g, "$1") });
      else found.push({ sign });
    }
    return found;
  };

  const own = (key) => {
    if (NEVER.has(String(key))) throw new TypeError(`${String(key)} is not for attributes`);
    return key;
  };
  const member = (object, key) => {
    if (object === window && !WINDOW.has(key)) throw new TypeError(`window.${String(key)} is not for attributes`);
    return object[own(key)];
  };

  // Each part of the language becomes a function of the scope. What can be assigned also has a `to`.
  const parse = (text) => {
    const tokens = split(text);
    let at = 0;
    const is = (sign) => tokens[at]?.sign === sign;
    const take = (sign) => is(sign) && Boolean(++at);
    const need = (sign) => {
      if (!take(sign)) throw new SyntaxError(`"${sign}" is missing in "${text}"`);
    };
    const list = (end, one) => {
      const found = [];
      while (!is(end)) {
        found.push(one());
        if (!take(",")) break;
      }
      need(end);
      return found;
    };

    const named = (name) => {
      const run = (scope) => {
        if (name in WORDS) return WORDS[name];
        if (name in scope) return scope[own(name)];
        if (GLOBALS.has(name)) return window[name];
        throw new ReferenceError(`${name} is not known`);
      };
      run.to = (scope, value) => { scope[own(name)] = value; };
      return run;
    };
    const item = () => {
      const { name, value } = tokens[at++];
      const key = name ?? String(value);
      const what = take(":") ? expression() : named(key);
      return (scope) => [own(key), what(scope)];
    };
    const primary = () => {
      if (take("(")) {
        const inner = expression();
        need(")");
        return inner;
      }
      if (take("[")) {
        const parts = list("]", expression);
        return (scope) => parts.map((part) => part(scope));
      }
      if (take("{")) {
        const parts = list("}", item);
        return (scope) => Object.fromEntries(parts.map((part) => part(scope)));
      }
      const token = tokens[at++];
      if (token && "value" in token) return () => token.value;
      if (token?.name) return named(token.name);
      throw new SyntaxError(`cannot read "${text}"`);
    };
    const called = (of, method, inputs) => (scope) => {
      const values = () => inputs.map((input) => input(scope));
      if (!method) return of(scope).apply(scope, values());
      const object = of(scope);
      return member(object, method(scope)).apply(object, values());
    };
    const chain = () => {
      let base = primary();
      let of = null; // whose member it is, for a call
      let key = null;
      for (;;) {
        if (is(".") || is("?.") || is("[")) {
          const { sign } = tokens[at++];
          const whose = base;
          let which;
          if (sign === "[") {
            which = expression();
            need("]");
          } else {
            const { name } = tokens[at++];
            which = () => name;
          }
          base = (scope) => {
            const object = whose(scope);
            return sign === "?." && object == null ? undefined : member(object, which(scope));
          };
          base.to = (scope, value) => { whose(scope)[own(which(scope))] = value; };
          [of, key] = [whose, which];
        } else if (take("(")) {
          base = called(of ?? base, key, list(")", expression));
          [of, key] = [null, null];
        } else {
          return base;
        }
      }
    };
    const unary = () => {
      if (take("!")) {
        const inner = unary();
        return (scope) => !inner(scope);
      }
      if (take("-")) {
        const inner = unary();
        return (scope) => -inner(scope);
      }
      return chain();
    };
    const binary = (level) => {
      if (level === LEVELS.length) return unary();
      let left = binary(level + 1);
      while (LEVELS[level].includes(tokens[at]?.sign)) {
        const { sign } = tokens[at++];
        const [one, other] = [left, binary(level + 1)];
        if (sign === "&&") left = (scope) => one(scope) && other(scope);
        else if (sign === "||") left = (scope) => one(scope) || other(scope);
        else if (sign === "??") left = (scope) => one(scope) ?? other(scope);
        else left = (scope) => DO[sign](one(scope), other(scope));
      }
      return left;
    };
    function expression() {
      if (tokens[at]?.name && tokens[at + 1]?.sign === "=>") { // value => …
        const { name } = tokens[at];
        at += 2;
        const body = expression();
        return (scope) => (value) => body(Alpine.mergeProxies([{ [name]: value }, scope]));
      }
      const left = binary(0);
      if (take("?")) {
        const yes = expression();
        need(":");
        const no = expression();
        return (scope) => (left(scope) ? yes(scope) : no(scope));
      }
      if (left.to && take("=")) {
        const right = expression();
        return (scope) => {
          const value = right(scope);
          left.to(scope, value);
          return value;
        };
      }
      return left;
    }
    const branch = () => {
      if (!take("{")) return statement();
      const body = statements("}");
      need("}");
      return body;
    };
    function statement() {
      if (tokens[at]?.name !== "if") return expression();
      at += 1;
      need("(");
      const test = expression();
      need(")");
      const yes = branch();
      take(";");
      const no = tokens[at]?.name === "else" && ++at ? branch() : () => undefined;
      return (scope) => (test(scope) ? yes(scope) : no(scope));
    }
    function statements(end) {
      const all = [];
      while (at < tokens.length && !is(end)) if (!take(";")) all.push(statement());
      return (scope) => all.reduce((_last, each) => each(scope), undefined);
    }
    return statements("}");
  };

  // --- What Alpine hands to every expression ------------------------------------------------------------------------
  const refs = (element) => {
    const found = [];
    for (let here = element; here; here = here._x_teleportBack ?? here.parentElement) if (here._x_refs) found.push(here._x_refs);
    return Object.assign({}, ...found.reverse());
  };
  const watch = (element) => (key, callback) => {
    const read = Alpine.evaluateLater(element, key);
    return Alpine.watch(() => {
      let value;
      read((found) => { value = found; });
      return value;
    }, callback);
  };
  const magics = (element) => ({
    $el: element,
    get $refs() { return refs(element); },
    get $root() { return Alpine.closestRoot(element); },
    $watch: watch(element),
    $nextTick: Alpine.nextTick,
    $dispatch: (event, detail = {}) =>
      element.dispatchEvent(new CustomEvent(event, { detail, bubbles: true, composed: true, cancelable: true })),
  });

  const parsed = new Map();
  const read = (text) => {
    if (!parsed.has(text)) parsed.set(text, parse(text));
    return parsed.get(text);
  };
  const evaluator = (element, given) => {
    const data = [magics(element), ...Alpine.closestDataStack(element)];
    return (receiver = () => {}, { scope = {}, params = [] } = {}) => {
      try {
        const whole = Alpine.mergeProxies([scope, ...data]);
        const found = typeof given === "function" ? given : read(given)(whole);
        const value = typeof found === "function" ? found.apply(whole, params) : found;
        if (value instanceof Promise) value.then(receiver);
        else receiver(value);
      } catch (error) {
        console.error(`An attribute of the page: ${error.message}`, given, element);
      }
    };
  };

  document.addEventListener("alpine:init", () => Alpine.setEvaluator(evaluator));
})();
