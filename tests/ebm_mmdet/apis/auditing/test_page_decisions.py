"""The page's decisions: none is lost, none is made that nobody meant. Its script runs in node."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.ebm_mmdet.apis.auditing.some_findings import write_some_page

DRIVER = Path(__file__).with_name("page_in_node.js")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_some_page(tmp_path_factory.mktemp("page"))


def in_node(folder, script: str) -> dict:
    """Run a script beside the page's own, with a ``Browser``, and return its ``result``."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed, which runs the page's script here")
    command = [node, str(DRIVER), str(folder)]
    done = subprocess.run(command, input=script, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert "error" not in result, result["error"]
    return result


@pytest.mark.parametrize("deaf", ["false", "true"])
def test_tabs_keep_each_others_decisions(folder, deaf):
    """Also where the news of another tab's decision has not come yet."""
    result = in_node(
        folder,
        f"""
        const browser = new Browser({{deaf: {deaf}}}), a = browser.open(), b = browser.open();
        a.press('a'); a.press('a'); a.press('a');
        b.set('least', 0);  // all are shown
        for (let i = 0; i < 3; i++) b.press('j');
        b.press('r');
        a.press('u');  // the third one; not that of the other tab
        result.stored = Object.values(browser.decisions);
        b.press('r');
        result.counts = [b.decided, browser.open().decided];
        """,
    )
    assert result["stored"] == ["accept", "accept", "reject"]
    assert result["counts"] == [4, 4]


def test_a_tab_shows_what_another_decides(folder):
    result = in_node(
        folder,
        """
        const browser = new Browser(), a = browser.open(), b = browser.open();
        a.press('r');
        result.decided = b.decided;
        result.verdict = b.$('verdict').textContent;
        a.press('u');
        result.undone = [b.decided, b.$('verdict').hidden];
        """,
    )
    assert result["decided"] == 1
    assert "rejected" in result["verdict"]
    assert result["undone"] == [0, True]


@pytest.mark.parametrize("fails", ["quota", "blocked"])
def test_a_store_that_fails_is_said_until_the_decisions_are_saved(folder, fails):
    result = in_node(
        folder,
        f"""
        const browser = new Browser(), tab = browser.open(), said = () => !tab.$('unkept').hidden;
        const held = () => tab.send(null, 'beforeunload').defaultPrevented;
        tab.press('a');
        result.before = [said(), held()];
        browser.fails = '{fails}';
        tab.press('r');
        result.failing = [said(), held(), tab.decided];
        tab.press('s');
        result.saved = [said(), held(), tab.files[0].decisions.map(d => d.decision)];
        tab.press('a');
        result.again = [said(), held(), tab.decided];
        browser.fails = false;
        tab.press('j'); tab.press('u');
        result.works = [said(), held(), Object.values(browser.decisions)];
        """,
    )
    assert result["before"] == [False, False]
    assert result["failing"] == [True, True, 2]
    assert result["saved"] == [False, False, ["accept", "reject"]]
    assert result["again"] == [True, True, 3]
    assert result["works"] == [False, False, ["accept", "reject"]]


def test_a_store_that_cannot_be_read_is_not_overwritten(folder):
    result = in_node(
        folder,
        """
        for (const text of ['[1]', '"x"', '5', 'null', 'not JSON']) {
          const browser = new Browser({text}), tab = browser.open();
          const said = !tab.$('unkept').hidden;
          tab.press('a');
          const held = tab.send(null, 'beforeunload').defaultPrevented;
          result[text] = [said, held, tab.decided, browser.text === text];
        }
        """,
    )
    assert len(result) == 5
    assert all(each == [True, True, 1, True] for each in result.values()), result


def test_a_store_keeps_what_this_page_does_not_show(folder):
    """Such as decisions about proposals of a call before; and one that was cleared is filled."""
    result = in_node(
        folder,
        """
        const other = {'box:0:of another call': 'reject', 'box:1:no decision': 'banana'};
        const browser = new Browser({text: JSON.stringify(other)}), tab = browser.open();
        tab.press('a');
        result.stored = Object.values(browser.decisions);
        browser.text = null;
        tab.press('r');
        result.filled = Object.values(browser.decisions);
        """,
    )
    assert result["stored"] == ["reject", "accept"]
    assert result["filled"] == ["reject", "accept", "reject"]


def test_the_threshold_of_an_audit_is_not_rounded(folder):
    result = in_node(
        folder,
        """
        for (const near of [0.995, 0.555, 0.5, 0.004]) {
          const tab = new Browser().open(data => {
            data.summary.threshold = near;
            data.lists.box.forEach((e, i) => { e.value = Math.min(1, near + 0.001 * (2 - i)); });
          });
          const seen = () => [+tab.document.querySelector('.tabs b').textContent, tab.count,
                              +tab.$('leastText').textContent];
          const first = seen();
          for (const kind of [1, 0]) tab.document.querySelectorAll()[kind].onclick();
          tab.set('class', '');
          const later = seen();
          tab.set('least', 0.25);
          result[near] = [first, later, tab.$('leastText').textContent];
        }
        """,
    )
    assert len(result) == 4
    for threshold, seen in result.items():
        assert seen == [[3, 3, float(threshold)]] * 2 + ["0.25"]


def test_a_key_that_is_held_acts_once(folder):
    result = in_node(
        folder,
        """
        for (const key of ['a', 'A', 'r', 'u', 's']) {
          const tab = new Browser().open();
          tab.set('least', 0);  // enough entries for each repeat
          for (let i = 0; i < 3; i++) tab.press('a');
          const events = [0, 1, 2, 3].map(i => tab.press(key, {repeat: i > 0}));
          result[key] = [tab.decided, tab.files.length, events.every(e => e.defaultPrevented)];
        }
        """,
    )
    once = [4, 0, True]
    assert result == dict(a=once, A=once, r=once, u=[2, 0, True], s=[3, 1, True])


def test_keys_that_move_go_on_while_they_are_held(folder):
    result = in_node(
        folder,
        """
        const tab = new Browser().open();
        for (let i = 0; i < 3; i++) tab.press('j', {repeat: i > 0});
        tab.press('a');
        tab.press('s');
        result.key = tab.data.lists.box.findIndex(e => e.key === tab.files[0].decisions[0].key);
        """,
    )
    assert result["key"] == 3


def test_a_button_that_the_mouse_has_pressed_does_not_keep_space(folder):
    result = in_node(
        folder,
        """
        for (const id of ['accept', 'reject', 'undo', 'next', 'all', 'save', 'load', 'help']) {
          const tab = new Browser().open(), counts = () => [tab.decided, tab.files.length].join();
          tab.press('a'); tab.press('a');
          tab.mouse(id);
          const before = counts();
          tab.$('dialog').close();
          for (let i = 0; i < 3; i++) tab.press(' ', {repeat: i > 0});
          result[id] = [counts() === before, tab.$('frame').classList.contains('hide-all')];
        }
        """,
    )
    assert len(result) == 8
    assert all(each == [True, True] for each in result.values()), result


def test_a_button_that_tab_has_reached_keeps_space_and_enter(folder):
    result = in_node(
        folder,
        """
        const tab = new Browser().open();
        tab.press('Tab');
        tab.$('accept').focus();
        tab.press(' ');
        result.space = tab.decided;
        for (let i = 0; i < 3; i++) tab.press('Enter', {repeat: i > 0});
        result.enter = tab.decided;
        """,
    )
    assert result == dict(space=1, enter=2)


@pytest.mark.parametrize("changed", ["true", "false"])
def test_keys_decide_after_a_filter_was_used(folder, changed):
    result = in_node(
        folder,
        f"""
        const tab = new Browser().open(), select = tab.$('state');
        tab.mouse('state');
        select.isOpen = true;
        result.open = [tab.press('a').defaultPrevented, tab.decided];
        select.isOpen = false;
        if ({changed}) tab.set('state', 'open');
        for (const key of ['r', 'a']) tab.press(key);
        result.decided = tab.decided;
        tab.press('Tab');
        select.focus();
        result.tabbed = [tab.press('a').defaultPrevented, tab.decided];
        """,
    )
    assert result == dict(open=[False, 0], decided=2, tabbed=[False, 2])


def test_accept_all_leaves_what_is_decided(folder):
    result = in_node(
        folder,
        """
        const browser = new Browser(), tab = browser.open();
        tab.press('r'); tab.press('a'); tab.press('r');
        tab.mouse('all');
        result.question = tab.questions;
        result.stored = Object.values(browser.decisions);
        result.disabled = tab.$('all').disabled;
        tab.press('u');
        result.undone = [Object.values(browser.decisions), tab.$('all').disabled];
        """,
    )
    assert result["question"] == ["Accept 1 undecided of 4 entries? 2 stay rejected."]
    assert result["stored"] == ["reject", "accept", "reject", "accept"]
    assert result["disabled"]
    assert result["undone"] == [["reject", "accept", "reject"], False]


def test_a_file_of_decisions_is_checked_and_can_be_undone(folder):
    result = in_node(
        folder,
        """
        const browser = new Browser(), tab = browser.open();
        const keys = tab.data.lists.box.map(e => e.key);
        const missing = tab.data.lists.missing[0].key;
        tab.press('a');
        const before = browser.text;
        const said = ['reject', 'banana', 'accept', null, {}];
        const decisions = said.map((decision, i) => ({key: keys[i], decision}));
        await tab.load({decisions: [...decisions, {key: missing, decision: 'accept'},
                                    {key: 'box:9:elsewhere', decision: 'accept'}, null, 3]});
        result.stored = browser.decisions;
        result.expected = {[keys[0]]: 'reject', [keys[2]]: 'accept', [missing]: 'accept'};
        result.alerts = tab.alerts.join().split('\\n');
        tab.document.querySelectorAll()[1].onclick();  // another list
        tab.press('u');
        result.undone = browser.text === before;
        tab.press('u');
        result.first = browser.text;
        """,
    )
    assert result["stored"] == result["expected"]
    assert result["undone"]
    assert result["first"] == "{}"
    others, odd, replaced = result["alerts"]
    assert others == "3 decisions are about other entries and were left out."
    assert odd.startswith("3 decisions are neither accept nor reject")
    assert '"banana"' in odd
    assert replaced.startswith("1 earlier decisions were replaced")


def test_a_file_without_decisions_changes_nothing(folder):
    result = in_node(
        folder,
        """
        for (const content of ['', '[]', '{}', 'null', '{"decisions": "accept"}']) {
          const browser = new Browser(), tab = browser.open();
          tab.press('a');
          const before = browser.text;
          await tab.load(content);
          result[content] = [browser.text === before, tab.alerts.join()];
        }
        """,
    )
    assert len(result) == 5
    for same, alert in result.values():
        assert same
        assert alert.startswith("This is no file of decisions: ")
