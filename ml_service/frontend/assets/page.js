// What the page does in the browser by itself: theme, key, keyboard, and telling whether it can be seen.
(() => {
  const PAGES = ["/ui/", "/ui/experiments", "/ui/data", "/ui/deployments", "/ui/evaluate", "/ui/health"];
  const DRAFT = "ml_service_draft";

  const mlPage = {
    toggleTheme() {
      const theme = document.body.classList.contains("body--dark") ? "light" : "dark";
      document.cookie = `ml_service_theme=${theme}; path=/; max-age=31536000; samesite=lax`;
      Quasar.Dark.set(theme === "dark");
    },
    async keepKey(key) {
      await fetch("/ui/key", { method: "POST", body: key });
      location.reload();
    },
    showPlace() {
      const here = document.querySelector(".nav-link[aria-current]"); // on a phone it may lie beyond the edge
      if (here) here.parentElement.scrollLeft = here.offsetLeft - here.parentElement.offsetLeft - 16;
    },
    extend(news, most) {
      for (const [id, points] of Object.entries(news)) {
        const chart = getElement(Number(id))?.chart;
        if (!chart) continue; // it is drawn with them
        const lines = chart.getOption().series.map((line, at) => {
          const data = [...line.data, ...points[at]].slice(-most);
          return { data, showSymbol: data.length < 3 };
        });
        chart.setOption({ series: lines });
      }
    },
    colour(name) {
      return getComputedStyle(document.body).getPropertyValue(`--${name}`).trim();
    },
    async copy(text) {
      if (navigator.clipboard && window.isSecureContext) return navigator.clipboard.writeText(text);
      const area = Object.assign(document.createElement("textarea"), { value: text }); // plain http on another host
      document.body.append(area);
      area.select();
      const isCopied = document.execCommand("copy");
      area.remove();
      if (!isCopied) throw new Error("the browser does not allow it");
    },
    keepDraft(name, text) {
      sessionStorage.setItem(`${DRAFT}:${name}`, text); // outlives a restart of the service
    },
    draft(name) {
      return sessionStorage.getItem(`${DRAFT}:${name}`);
    },
  };
  window.mlPage = mlPage;

  const isTyping = (target) =>
    target.isContentEditable || ["INPUT", "TEXTAREA", "SELECT"].includes(target.tagName) || target.closest(".q-dialog");

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
    const page = PAGES[Number(event.key) - 1];
    if (page) location.href = page;
    else if (event.key === "t") mlPage.toggleTheme();
    else if (event.key === "?") document.querySelector(".shortcuts")?.click();
  });

  // Charts are painted, so they do not follow the style sheet: whoever turns the theme, they are painted anew.
  const SHADES = ["ground", "card", "sunk", "line", "ink", "muted", "accent", "accent-soft", "good", "bad", "busy"];
  for (let number = 1; number <= 6; number++) SHADES.push(`series-${number}`);
  let shades;
  const repaint = () => {
    const now = SHADES.map(mlPage.colour);
    const swapped = new Map((shades ?? now).map((shade, at) => [shade, now[at]]));
    const turned = (value, key) => {
      if (typeof value === "string") return swapped.get(value) ?? value;
      if (value === null || typeof value !== "object" || key === "data") return value;
      if (Array.isArray(value)) return value.map((each) => turned(each));
      return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, turned(each, name)]));
    };
    if (shades && shades[0] !== now[0])
      for (const place of document.querySelectorAll(".nicegui-echart")) {
        const chart = getElement(Number(place.id.slice(1)))?.chart;
        chart?.setOption(turned(chart.getOption()));
      }
    shades = now;
  };
  document.addEventListener("DOMContentLoaded", () => {
    new MutationObserver(repaint).observe(document.body, { attributeFilter: ["class"] });
    repaint();
  });

  document.addEventListener("visibilitychange", () => {
    if (window.emitEvent) window.emitEvent("seen", document.visibilityState === "visible");
  });
})();
