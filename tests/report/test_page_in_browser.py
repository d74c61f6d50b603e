"""The page in a real browser: no errors, filters that filter, the keyboard, narrow windows, light and dark."""

import pytest


@pytest.fixture
def opened(browser, page):
    browser.open(page)
    return browser


SHOWN = "filter(e => e.getClientRects().length)"


def first_ranks(browser):
    """The `data-first` of every list that is shown, card by card."""
    return browser.value(
        f"[...document.querySelectorAll('.card')].{SHOWN}"
        f".map(c => [...c.querySelectorAll('.list')].{SHOWN}.map(l => l.dataset.first))"
    )


def test_it_opens_without_errors_and_without_the_network(opened):
    assert opened.complaints() == []
    assert opened.value("document.title") == "2 runs side by side"


def test_every_image_loads(opened):
    widths = opened.value("Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth)))")
    assert len(widths) > 10 and min(widths) > 0


def test_a_data_set_can_be_chosen(opened):
    cards = opened.visible(".card")
    opened.choose("set", "folder:there")
    sets = opened.value(
        f"[...new Set([...document.querySelectorAll('main [data-set]')].{SHOWN}.map(e => e.dataset.set))]"
    )
    assert sets == ["folder:there"] and 0 < opened.visible(".card") < cards
    assert (
        opened.value("document.getElementById('count').textContent") == f"{opened.visible('.card')} of {cards} queries"
    )
    opened.choose("set", "all")
    assert opened.visible(".card") == cards


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        ("right", lambda lists: set(lists) == {"right"}),
        ("wrong", lambda lists: "wrong" in lists),
        ("differ", lambda lists: set(lists) == {"right", "wrong"}),
    ],
)
def test_queries_can_be_chosen_by_their_first_rank(opened, choice, wanted):
    expected = [lists for lists in first_ranks(opened) if wanted(lists)]
    opened.choose("first", choice)
    assert sorted(first_ranks(opened)) == sorted(expected)
    assert opened.value("document.getElementById('no-match').hidden") == bool(expected)


def test_both_filters_hold_together(opened):
    opened.choose("set", "folder:here")
    opened.choose("first", "wrong")
    assert all("wrong" in lists for lists in first_ranks(opened))
    assert opened.value(f"[...document.querySelectorAll('.card')].{SHOWN}.every(c => c.dataset.set === 'folder:here')")


def test_a_run_can_be_hidden_by_a_click(opened):
    before = {name: opened.visible(name) for name in (".run", "tr[data-run]", ".list")}
    opened.click("input[name=run][value='1']")
    assert opened.visible("main [data-run='1']") == 0 and opened.visible("main [data-run='0']") > 0
    assert all(0 < opened.visible(name) < count for name, count in before.items())


def test_the_order_can_be_turned(opened):
    def shown():
        return opened.value(
            "[...document.querySelectorAll('.query-set')].map(s => [...s.querySelectorAll('.card')]"
            ".map(c => Math.min(...[...c.querySelectorAll('.list')].map(l => Number(l.dataset.ap)))))"
        )

    assert all(values == sorted(values) for values in shown())
    opened.choose("order", "best")
    assert all(values == sorted(values, reverse=True) for values in shown())


def test_a_chart_tells_the_values_at_the_pointer(opened):
    lines = "[...document.getElementById('readout').children].map(e => e.textContent)"
    opened.point_at(".chart[data-set=all_average] svg", 0.98)
    words = opened.value(lines)
    assert words[0] == "iteration 300" and "30 first Rank-1" in words and "50 <second> Rank-1" in words
    opened.click("input[name=run][value='1']")
    opened.point_at(".chart[data-set=all_average] svg", 0.4)
    assert opened.value(lines) == ["iteration 100", "20 first Rank-1", "35 first mAP"]
    opened.point_at("h1", 0.5)
    assert opened.visible("#readout") == 0


def test_the_keyboard_reaches_and_works_every_filter(opened):
    reached = []
    for _ in range(20):
        opened.press("Tab")
        reached.append(opened.value("document.activeElement.name || document.activeElement.className"))
        outline = opened.value("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", f"no visible focus on {reached[-1]}"
        if reached[-1] == "run":
            break
    assert reached[0] == "skip"
    assert [name for name in reached if name in ("theme", "set", "first", "order", "run")] == [
        "theme",
        "set",
        "first",
        "order",
        "run",
    ]
    opened.press(" ")
    assert opened.visible("main [data-run='0']") == 0


def test_the_skip_link_is_seen_when_it_has_the_focus(opened):
    opened.press("Tab")
    assert opened.value("document.activeElement.getBoundingClientRect().width") > 50


@pytest.mark.parametrize("width", [320, 375, 768, 1280])
def test_nothing_sticks_out_sideways(browser, page, width):
    browser.open(page, width, 800)
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.value(
        "[...document.querySelectorAll('.scroll')].every(e => getComputedStyle(e).overflowX === 'auto')"
    )


def luminance(browser):
    """The lightness of the page's background and text, 0..255."""
    rule = "getComputedStyle(document.body)"
    colours = browser.value(
        f"[{rule}.backgroundColor, {rule}.color].map(c => c.match(/\\d+/g).slice(0, 3).map(Number))"
    )
    return [sum(colour) / 3 for colour in colours]


def test_dark_follows_the_system_and_can_be_chosen(browser, page):
    browser.open(page, scheme="dark")
    background, text = luminance(browser)
    assert background < 60 and text > 180
    browser.choose("theme", "light")
    background, text = luminance(browser)
    assert background > 200 and text < 80
    browser.open(page, scheme="light")
    assert luminance(browser)[0] > 200
    browser.choose("theme", "dark")
    assert luminance(browser)[0] < 60


@pytest.mark.parametrize("width", [375, 800, 1280])
def test_a_link_to_a_section_shows_its_heading(browser, page, width):
    browser.open(page, width, 700)
    browser.value("document.documentElement.style.scrollBehavior = 'auto'")
    browser.click("nav a[href='#results']")
    heading, filters = browser.value(
        "[document.getElementById('results-title').getBoundingClientRect().top,"
        " document.getElementById('filters').getBoundingClientRect().bottom]"
    )
    assert max(0, filters) - 1 <= heading < 700  # a pixel for rounding


def test_reduced_motion_is_respected(opened):
    opened.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}])
    assert opened.value("getComputedStyle(document.documentElement).scrollBehavior") == "auto"


def test_print_leaves_the_controls_out(opened):
    opened.send("Emulation.setEmulatedMedia", media="print")
    hidden = opened.visible("form") == 0 and opened.visible(".card") > 0
    opened.send("Emulation.setEmulatedMedia", media="")
    assert hidden
