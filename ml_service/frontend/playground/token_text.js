// Tokens as spans of one <pre>, written without the framework: an answer has hundreds of them. One tooltip serves all.
const MARKS = { "\n": "↵", "\t": "⇥", " ": "·", "\r": "␍" };
const visible = (text) => text.replace(/[\n\t \r]/g, (character) => MARKS[character]) || "(end)";
const percent = (share) => `${(share * 100).toFixed(share >= 0.9995 || share < 0.0995 ? 1 : 0)} %`;
const tint = (share) => (share >= 0.9 ? 0 : share >= 0.6 ? 1 : share >= 0.3 ? 2 : share >= 0.1 ? 3 : 4);

export default {
  template: `
    <div class="tokens" :class="{ waiting: isWaiting }" @keydown="moved" @mouseleave="hide" @focusout="hide">
      <pre ref="text" class="tokens-text" role="group" :aria-label="name + ': arrow keys go from token to token'"
        @mouseover="pointed" @focusin="pointed"></pre>
      <div ref="tip" :id="tipId" class="token-tip" role="tooltip" hidden></div>
    </div>`,
  props: { name: String },
  data() {
    return { isWaiting: false, tipId: `tip-${Math.random().toString(36).slice(2)}` };
  },
  created() {
    this.pieces = []; // not reactive
  },
  methods: {
    begin() {
      this.pieces.length = 0;
      this.$refs.text.replaceChildren();
      this.hide();
      this.isWaiting = true;
    },
    add(pieces) {
      const spans = document.createDocumentFragment();
      for (const [text, share] of pieces) {
        const span = document.createElement("span");
        span.textContent = text;
        span.tabIndex = this.pieces.length || spans.childNodes.length ? -1 : 0; // one stop of Tab, arrows inside
        if (share !== null) span.className = `tint-${tint(share)}`;
        spans.append(span);
      }
      this.pieces.push(...pieces);
      this.$refs.text.append(spans);
    },
    end() {
      this.isWaiting = false;
    },
    moved(event) {
      const at = [...this.$refs.text.children].indexOf(event.target);
      if (at < 0) return;
      if (event.key === "Escape") return this.hide();
      const last = this.pieces.length - 1;
      const next = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: last }[event.key];
      if (next === undefined || next < 0 || next > last) return;
      event.preventDefault();
      event.target.tabIndex = -1;
      this.$refs.text.children[next].tabIndex = 0;
      this.$refs.text.children[next].focus();
    },
    pointed(event) {
      const at = [...this.$refs.text.children].indexOf(event.target);
      if (at < 0 || this.pieces[at][1] === null) return this.hide();
      this.show(event.target, this.pieces[at]);
    },
    hide() {
      this.$refs.tip.hidden = true;
      this.$refs.text.querySelector("[aria-describedby]")?.removeAttribute("aria-describedby");
    },
    show(span, [text, share, others]) {
      this.hide();
      const tip = this.$refs.tip;
      const row = (token, probability, kind) => {
        const line = Object.assign(document.createElement("div"), { className: `token-row ${kind}` });
        const name = Object.assign(document.createElement("span"), { className: "token-name" });
        name.textContent = visible(token);
        const bar = Object.assign(document.createElement("span"), { className: "token-bar" });
        bar.style.setProperty("--share", probability);
        const number = Object.assign(document.createElement("span"), { className: "token-share" });
        number.textContent = percent(probability);
        line.append(name, bar, number);
        return line;
      };
      tip.replaceChildren(row(text, share, "chosen"));
      for (const [token, probability] of others) if (token !== text) tip.append(row(token, probability, ""));
      span.setAttribute("aria-describedby", this.tipId);
      tip.hidden = false;
      const box = this.$el.getBoundingClientRect();
      const at = span.getClientRects()[0] ?? span.getBoundingClientRect();
      tip.style.left = `${Math.max(0, Math.min(at.left - box.left, box.width - tip.offsetWidth))}px`;
      const isRoom = at.bottom + tip.offsetHeight + 8 < window.innerHeight || at.top - tip.offsetHeight < 60;
      tip.style.top = `${isRoom ? at.bottom - box.top + 4 : at.top - box.top - tip.offsetHeight - 4}px`;
    },
  },
};
