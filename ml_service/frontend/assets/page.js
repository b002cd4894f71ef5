// What the page does in the browser by itself: theme, key, keyboard, and telling whether it can be seen.
(() => {
  const PAGES = ["/ui/", "/ui/experiments", "/ui/data", "/ui/deployments", "/ui/evaluate", "/ui/health"];
  const DRAFT = "ml_service_draft";

  const mlPage = {
    toggleTheme() {
      const theme = document.body.classList.contains("body--dark") ? "light" : "dark";
      document.cookie = `ml_service_theme=${theme}; path=/; max-age=31536000; samesite=lax`;
      location.reload(); // charts take their colours when they are made
    },
    async keepKey(key) {
      await fetch("/ui/key", { method: "POST", body: key });
      location.reload();
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

  document.addEventListener("visibilitychange", () => {
    if (window.emitEvent) window.emitEvent("seen", document.visibilityState === "visible");
  });
})();
