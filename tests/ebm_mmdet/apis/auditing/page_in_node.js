// Runs the page's script without a browser: node page_in_node.js FOLDER < SCRIPT prints `result`.
//
// It has what the page asks of a document, and no more: elements by id, their attributes, focus,
// events that bubble from an element to the window, a slider that rounds to its steps, and a store
// that several tabs share and that tells the others of a change. What is drawn is not looked at.
"use strict";
const fs = require("fs"), path = require("path"), vm = require("vm");

const folder = process.argv[2];
const page = fs.readFileSync(path.join(folder, "index.html"), "utf8");
const code = page.split("<script>")[1].split("</script>")[0];

class Element {
  constructor(tab, tag, attributes = {}) {
    Object.assign(this, {tab, tagName: tag.toUpperCase(), attributes: {}, children: [], style: {}, dataset: {}});
    Object.assign(this, {textContent: "", hidden: false, scrollTop: 0, clientHeight: 600, clientWidth: 800});
    const names = new Set();
    this.listeners = {};
    this.classList = {add: n => names.add(n), remove: n => names.delete(n), contains: n => names.has(n),
      toggle: n => names.has(n) ? names.delete(n) : names.add(n)};
    this.given = "";
    for (const [name, value] of Object.entries(attributes)) this.setAttribute(name, value);
  }
  setAttribute(name, value) {
    this.attributes[name] = String(value);
    if (name === "type") this.type = value;
    if (name === "value") this.value = value;
    if (name === "hidden") this.hidden = true;
    if (name.startsWith("data-")) this.dataset[name.slice(5)] = value;
  }
  get value() { return this.given; }
  set value(value) {
    const {min, max, step} = this.attributes;
    this.given = String(value);
    if (this.type !== "range" || step === "any") return;
    const near = Math.round((Math.min(max, Math.max(min, value)) - min) / step) * step + Number(min);
    this.given = String(Number(near.toFixed(9)));
  }
  append(...inside) { for (const one of inside) { if (one instanceof Element) one.parent = this; this.children.push(one); } }
  replaceChildren(...inside) { this.children = []; this.append(...inside); if (this.tagName === "SELECT") this.value = ""; }
  querySelector(selector) { return this.children.find(one => one.tagName === selector.toUpperCase()); }
  remove() { this.parent.children = this.parent.children.filter(one => one !== this); }
  get firstElementChild() { return this.children.find(one => one instanceof Element); }
  get lastElementChild() { return this.children.findLast(one => one instanceof Element); }
  matches(selector) { return selector === ":open" && this.isOpen === true; }
  addEventListener(type, act) { (this.listeners[type] ||= []).push(act); }
  focus() { this.tab.document.activeElement = this; }
  blur() { if (this.tab.document.activeElement === this) this.tab.document.activeElement = this.tab.body; }
  click() { this.tab.send(this, "click"); }
  showModal() { this.open = true; }
  close() { this.open = false; }
}

// One store for all tabs of a browser. `deaf` keeps the news of a change from the other tabs.
class Browser {
  constructor({fails = false, text = null, deaf = false} = {}) { Object.assign(this, {fails, text, deaf, tabs: []}); }
  of(tab) {
    const check = () => { if (this.fails) throw new Error(this.fails); };
    return {
      getItem: key => { this.key = key; if (this.fails === "blocked") check(); return this.text; },
      setItem: (key, text) => {
        check();
        const changed = this.text !== text;
        Object.assign(this, {key, text});
        if (changed && !this.deaf) for (const other of this.tabs) if (other !== tab) other.send(null, "storage", {key});
      },
    };
  }
  open(change = () => {}) { const tab = new Tab(this, change); this.tabs.push(tab); return tab; }
  get decisions() { return JSON.parse(this.text); }
}

class Tab {
  constructor(browser, change) {
    this.listeners = []; this.alerts = []; this.questions = []; this.files = [];
    this.body = new Element(this, "body");
    const ids = {}, tabs = [];
    for (const [, tag, text] of page.matchAll(/<(\w+)((?:\s+[\w-]+(?:="[^"]*")?)+)>/g)) {
      const attributes = Object.fromEntries([...text.matchAll(/([\w-]+)(?:="([^"]*)")?/g)].map(m => [m[1], m[2] || ""]));
      if (attributes.id) ids[attributes.id] = new Element(this, tag, attributes);
      if (attributes["data-kind"]) { const made = new Element(this, tag, attributes); made.append(new Element(this, "b")); tabs.push(made); }
    }
    ids.count.append(new Element(this, "span"));
    ids.state.value = "all";
    this.document = {activeElement: this.body, getElementById: id => ids[id] || null,
      createElement: tag => new Element(this, tag), createElementNS: (space, tag) => new Element(this, tag),
      querySelectorAll: () => tabs, querySelector: () => tabs[0].firstElementChild};
    const world = {document: this.document, localStorage: browser.of(this), console,
      addEventListener: (type, act, capture) => this.listeners.push({type, act, capture: capture === true}),
      alert: text => this.alerts.push(text), confirm: text => { this.questions.push(text); return true; },
      Image: class {}, Blob: class { constructor(parts) { this.text = parts.join(""); } }, setTimeout: () => 0,
      URL: {createObjectURL: blob => { this.files.push(JSON.parse(blob.text)); return "blob:"; }, revokeObjectURL() {}}};
    world.window = world;
    vm.createContext(world);
    vm.runInContext(fs.readFileSync(path.join(folder, "data.js"), "utf8"), world);
    change(world.AUDIT);
    this.data = world.AUDIT;
    vm.runInContext(code, world);
  }
  $(id) { return this.document.getElementById(id); }
  get decided() { return parseInt(this.$("reviewed").textContent); }
  get count() { return parseInt(this.$("count").firstElementChild.textContent); }
  send(target, type, more = {}) {
    const event = {type, target, detail: 0, repeat: false, defaultPrevented: false, ...more};
    event.preventDefault = () => { event.defaultPrevented = true; };
    const own = target ? [...(target.listeners[type] || []), target["on" + type]].filter(Boolean) : [];
    const there = this.listeners.filter(one => one.type === type);
    for (const {act} of there.filter(one => one.capture)) act(event);
    for (const act of own) act(event);
    for (const {act} of there.filter(one => !one.capture)) act(event);
    return event;
  }
  // A key goes to what has the focus; a button with it is pressed by Space and Enter.
  press(key, more = {}) {
    const target = this.document.activeElement, event = this.send(target, "keydown", {key, ...more});
    if (!event.defaultPrevented && target.tagName === "BUTTON" && [" ", "Enter"].includes(key)) this.send(target, "click");
    return event;
  }
  // As a browser does: the focus comes with the button down, the click after it is up.
  mouse(id) {
    const target = this.$(id);
    this.send(target, "mousedown", {detail: 1});
    target.focus();
    this.send(target, "mouseup", {detail: 1});
    if (!target.disabled) this.send(target, "click", {detail: 1});
  }
  set(id, value) { this.$(id).value = value; this.send(this.$(id), "input"); this.send(this.$(id), "change"); }
  async load(content) {
    const text = async () => typeof content === "string" ? content : JSON.stringify(content);
    this.$("file").onchange({target: {files: [{text}], value: ""}});
    await new Promise(setImmediate);
  }
}

const script = fs.readFileSync(0, "utf8"), result = {};
const run = new (Object.getPrototypeOf(async () => {}).constructor)("Browser", "result", script);
run(Browser, result).catch(error => { result.error = error.stack; }).then(() => console.log(JSON.stringify(result)));
