"""The page in a browser: what is shown, and what its keys do."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess

import pytest

from ebm_mmdet.apis.auditing import page
from ebm_mmdet.apis.auditing.annotations import read_annotations
from ebm_mmdet.apis.auditing.findings import find
from ebm_mmdet.apis.auditing.page import write_page
from tests.ebm_mmdet.apis.auditing.some_findings import (
    CLASSES,
    some_findings,
    some_results,
    write_data,
    write_some_page,
)

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture
def folder(tmp_path):
    return write_some_page(tmp_path)


def data_of(folder):
    return json.loads((folder / "data.js").read_text()[len("window.AUDIT = ") : -2])


def in_browser(folder, script: str, size: str = "1400,900") -> dict:
    """Run a script on the page and return what it puts into ``result``."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser is installed; looked for {', '.join(BROWSERS)}")
    # Its own profile: another one may be open, and what a test stores is gone with it.
    driver = f"""<script>
    const press = key => dispatchEvent(new KeyboardEvent('keydown', {{key}}));
    const wait = ms => new Promise(done => setTimeout(done, ms));
    const $$ = selector => [...document.querySelectorAll(selector)];
    addEventListener('load', async () => {{
      const result = {{}};
      try {{ {script} }} catch (error) {{ result.error = String(error); }}
      document.body.innerHTML = '';
      const pre = document.createElement('pre');
      pre.id = 'result'; pre.textContent = JSON.stringify(result);
      document.body.append(pre);
    }});
    </script>"""
    page = folder / "driven.html"
    text = (folder / "index.html").read_text(encoding="utf-8")
    page.write_text(text.replace("</body>", driver + "</body>"), encoding="utf-8")
    command = [
        browser,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        f"--window-size={size}",
        "--virtual-time-budget=8000",
        f"--user-data-dir={folder / 'profile'}",
        "--dump-dom",
        page.as_uri(),
    ]
    # On a busy machine the page's time can be over before its pictures are there: once more then.
    for _ in range(4):
        shutil.rmtree(folder / "profile", ignore_errors=True)
        done = subprocess.run(command, capture_output=True, text=True, timeout=180)
        found = re.search(r'<pre id="result">(.*?)</pre>', done.stdout, re.S)
        if found:
            break
    assert found, done.stdout[-2000:] + done.stderr[-2000:]
    result = json.loads(html.unescape(found[1]))
    assert "error" not in result, result["error"]
    return result


def test_the_folder_needs_nothing_else(folder):
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert not re.findall(r'(?:src|href)="(?!data\.js)[^"#]+"', page)
    assert "://" not in page.replace("http://www.w3.org/2000/svg", "")
    data = data_of(folder)
    for entries in data["lists"].values():
        for each in entries:
            assert (folder / "pictures" / each["cut"][0]).stat().st_size > 100
    values = [each["value"] for each in data["lists"]["box"]]
    assert values == sorted(values, reverse=True)


def test_keys_decide_and_the_file_has_the_decisions(folder):
    result = in_browser(
        folder,
        """
        await wait(300);
        result.selected = $$('.row[aria-selected=true]').length;
        result.first = document.querySelector('.row').innerText;
        result.tags = $$('.tag').map(t => t.textContent);
        result.lines = $$('#frame line.off').length;
        result.boxes = $$('#frame rect.old').length + $$('#frame rect.new').length;
        const picture = document.querySelector('#frame img');
        await picture.decode();
        result.loaded = picture.naturalWidth > 0;
        press('a'); press('r'); press('j'); press('a'); press('u');
        result.stored = JSON.parse(localStorage.getItem(
            Object.keys(localStorage).find(k => k.startsWith('ebm-audit-'))));
        let saved;
        URL.createObjectURL = blob => { saved = blob; return 'about:blank'; };
        HTMLAnchorElement.prototype.click = function () { result.name = this.download; };
        press('s');
        result.file = JSON.parse(await saved.text());
        """,
    )
    assert result["selected"] == 1
    assert result["loaded"]
    assert result["lines"] == 1
    assert len(result["tags"]) == 1
    assert re.fullmatch(r"−\d+\.\d px", result["tags"][0])
    assert "left" in result["first"]
    assert result["boxes"] == 4  # each has a shadow
    data = data_of(folder)
    first, second = (each["key"] for each in data["lists"]["box"][:2])
    assert result["stored"] == {first: "accept", second: "reject"}  # the last one was undone
    assert result["name"] == "accepted.json"
    decisions = result["file"]["decisions"]
    assert [each["decision"] for each in decisions] == ["accept", "reject"]
    assert decisions[0]["proposal"] == data["lists"]["box"][0]["proposal"]
    assert {"row", "id", "bbox", "kind"} <= decisions[0].keys()


def test_filters_and_lists(folder):
    result = in_browser(
        folder,
        """
        const set = (id, value) => { const e = document.getElementById(id); e.value = value;
                                     e.dispatchEvent(new Event('input')); };
        const count = () => parseInt(document.querySelector('#count span').textContent);
        result.flagged = count();
        set('least', 0); result.all = count();
        set('class', 'ape'); result.apes = count();
        set('class', 'bat'); result.bats = count();
        set('class', ''); set('search', 'im 2'); result.two = count();
        set('search', 'nowhere'); result.none = count();
        const empty = document.getElementById('empty');
        result.empty = empty.innerText;
        result.disabled = document.getElementById('accept').disabled;
        set('search', '');
        result.over = empty.checkVisibility();
        press('a'); set('state', 'accept'); result.accepted = count();
        set('state', 'all');
        document.querySelector('[data-kind=missing]').click(); result.missing = count();
        press('a');
        document.querySelector('[data-kind=superfluous]').click(); result.superfluous = count();
        result.rows = $$('.row').length;
        """,
    )
    assert result["flagged"] == 4
    assert result["all"] == 29  # the thirtieth is about nothing
    assert result["apes"] + result["bats"] == 29
    assert result["two"] == 5
    assert result["none"] == 0
    assert "filter" in result["empty"]
    assert result["disabled"]
    assert not result["over"]
    assert result["accepted"] == 1
    assert result["missing"] == 6
    assert result["superfluous"] == 1


def test_five_thousand_entries_make_few_rows(folder):
    data = data_of(folder)
    one = data["lists"]["box"][0]
    data["lists"]["box"] = [{**one, "key": f"box:{k}", "row": k} for k in range(5000)]
    (folder / "data.js").write_text(f"window.AUDIT = {json.dumps(data)};\n")
    result = in_browser(
        folder,
        """
        result.count = document.querySelector('#count span').textContent;
        result.rows = $$('.row').length;
        const list = document.getElementById('list');
        list.scrollTop = 62 * 4000;
        list.dispatchEvent(new Event('scroll'));  // a busy machine draws no frame, which sends it
        result.after = $$('.row').length;
        result.far = $$('.row').some(row => row.dataset.key === 'box:4000');
        const start = performance.now();
        for (let i = 0; i < 50; i++) press('a');
        result.ms = (performance.now() - start) / 50;
        result.lazy = $$('.row img').every(img => img.loading === 'lazy');
        """,
    )
    assert result["count"] == "5000 of 5000"
    assert result["rows"] < 40
    assert result["after"] < 40
    assert result["far"]
    assert result["lazy"]


@pytest.mark.parametrize("size", ["1400,900", "900,700", "560,900"])
def test_everything_is_seen_at_any_width(folder, size):
    result = in_browser(
        folder,
        """
        const place = selector => document.querySelector(selector).getBoundingClientRect();
        await document.querySelector('#frame img').decode();
        result.width = innerWidth;
        result.across = document.documentElement.scrollWidth;
        result.sides = $$('#right tbody tr').length;
        result.evidence = place('#right tbody').width;
        result.accept = place('#accept').bottom - innerHeight;
        const stage = place('#stage'), tag = place('.tag');
        result.tag = [tag.top - stage.top, stage.bottom - tag.bottom];
        result.legend = place('#legend').top - place('#frame').bottom;
        """,
        size,
    )
    assert result["across"] <= result["width"]
    assert result["sides"] == 4
    assert result["evidence"] > 100
    assert result["accept"] <= 0
    assert min(result["tag"]) >= 0
    assert result["legend"] >= 0


def test_what_has_the_focus_keeps_its_keys(folder):
    result = in_browser(
        folder,
        """
        const at = () => $$('.row').findIndex(row => row.getAttribute('aria-selected') === 'true');
        const on = (id, key) => {
          const event = new KeyboardEvent('keydown', {key, bubbles: true, cancelable: true});
          return document.getElementById(id).dispatchEvent(event);  // false: the page took the key
        };
        result.before = at();
        result.slider = on('least', 'ArrowRight'); result.button = on('accept', ' ');
        result.search = on('search', 'a');
        result.after = at();
        result.decided = document.getElementById('reviewed').textContent;
        result.list = on('list', 'ArrowDown');
        result.moved = at();
        """,
    )
    assert all(result[name] for name in ("slider", "button", "search"))
    assert result["before"] == result["after"] == 0
    assert result["decided"] == "0 decided"
    assert not result["list"]
    assert result["moved"] == 1


@pytest.mark.parametrize("size", ["1400,900", "560,900"])
def test_the_mouse_gives_keys_back_and_a_failing_store_is_seen(folder, size):
    result = in_browser(
        folder,
        """
        const send = (target, type, more) => {
          const event = new MouseEvent(type, {bubbles: true, cancelable: true, detail: 1, ...more});
          return target.dispatchEvent(event);
        };
        const at = id => document.getElementById(id), focus = () => document.activeElement.tagName;
        const key = key => document.activeElement.dispatchEvent(
            new KeyboardEvent('keydown', {key, bubbles: true, cancelable: true}));
        for (const id of ['accept', 'state']) {
          send(at(id), 'mousedown'); at(id).focus();
          result[id] = [focus()];
          send(at(id), 'mouseup'); send(at(id), 'click');
          if (id === 'state') at(id).dispatchEvent(new Event('change', {bubbles: true}));
          result[id].push(focus());
        }
        key(' ');
        result.alone = getComputedStyle(document.querySelector('#frame svg')).display;
        result.hidden = at('unkept').checkVisibility();
        Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError'); };
        key('a');
        result.decided = at('reviewed').textContent;
        const {top, bottom, height} = at('unkept').getBoundingClientRect();
        result.said = [top >= 0, bottom <= innerHeight, height > 10];
        result.guarded = !dispatchEvent(new Event('beforeunload', {cancelable: true}));
        """,
        size,
    )
    assert result["accept"] == ["BUTTON", "BODY"]
    assert result["state"] == ["SELECT", "BODY"]
    assert result["alone"] == "none"
    assert result["decided"] == "2 decided"
    assert not result["hidden"]
    assert result["said"] == [True] * 3
    assert result["guarded"]


@pytest.mark.parametrize("at", ["first picture", "later picture", "rename", "data.js"])
def test_an_interrupted_call_leaves_the_page_of_the_one_before(tmp_path, monkeypatch, at):
    """Its boxes and their pictures: both are looked at together."""
    path = write_data(tmp_path / "data")
    annotations = read_annotations(path, path.parent, CLASSES)
    results, out = some_results(annotations), tmp_path / "out"

    def write(results):
        found = find(annotations, results)
        summary = dict(audited=len(found.boxes), folds=5, complete=True, threshold=0.5)
        write_page(out, annotations, found, summary, path, "a key", lambda line: None)

    def seen():
        return {
            each["key"]: (each, (out / "pictures" / each["cut"][0]).read_bytes())
            for entries in data_of(out)["lists"].values()
            for each in entries
        }

    write({k: v for k, v in results.items() if k < 3})
    before, calls = seen(), []

    def interrupted(real, after):
        def call(*arguments, **more):
            calls.append(1)
            if len(calls) > after:
                raise KeyboardInterrupt
            return real(*arguments, **more)

        return call

    place, name, after = {
        "first picture": (page.cv2, "imencode", 0),
        "later picture": (page.cv2, "imencode", 20),
        "rename": (os, "replace", 20),
        "data.js": (page, "write_text", 0),
    }[at]
    with monkeypatch.context() as patch:
        patch.setattr(place, name, interrupted(getattr(place, name), after))
        with pytest.raises(KeyboardInterrupt):
            write(results)
    assert len(calls) == after + 1
    assert seen() == before
    write(results)
    assert len(seen()) > len(before)
    used = {each["cut"][0] for each, _ in seen().values()}
    assert {each.name for each in (out / "pictures").iterdir()} == used


def test_pictures_are_named_after_what_they_show(folder):
    """Of one image and cut there is one; those of an earlier version go, a user's files stay."""
    pictures = folder / "pictures"
    entries = [each for some in data_of(folder)["lists"].values() for each in some]
    by_name = {each["cut"][0]: (each["image"], each["cut"]) for each in entries}
    for each in entries:
        assert by_name[each["cut"][0]] == (each["image"], each["cut"])
    assert len({repr(shown) for shown in by_name.values()}) == len(by_name)
    stale = ["000001.jpg", "0123456789abcdef.jpg", ".0123456789abcdef.jpg.89abcdef.partial"]
    own = ["notes.txt", "000001 copy.jpg", "sea.jpg"]
    for name in [*stale, *own]:
        (pictures / name).write_bytes(b"something")
    write_some_page(folder.parent)
    assert {each.name for each in pictures.iterdir()} == {*by_name, *own}


def test_the_page_says_what_it_does_not_show(tmp_path, monkeypatch):
    monkeypatch.setattr("ebm_mmdet.apis.auditing.page.MOST_SHOWN", 10)
    path, annotations, findings = some_findings(tmp_path / "data")
    summary = dict(audited=len(findings.boxes), folds=5, complete=True, threshold=0.5)
    lines: list[str] = []
    write_page(tmp_path / "out", annotations, findings, summary, path, "a key", lines.append)
    result = in_browser(
        tmp_path / "out", "result.count = document.querySelector('#count span').textContent;"
    )
    assert len(lines) == 1
    assert "19 more in the files" in result["count"]
