// A plain <textarea>: what is typed is kept as a draft at once, and told to the server before anything is pressed.
const DRAFT = "prompt";

export default {
  template: `
    <div class="prompt-field">
      <label :for="fieldId" class="prompt-label">Prompt</label>
      <textarea ref="area" :id="fieldId" class="prompt-area" rows="4" spellcheck="false" autocapitalize="off"
        autocomplete="off" :maxlength="longest" placeholder="def read_lines(path):" @input="typed"></textarea>
      <p v-if="isFull" class="hint" role="status">Only the first {{ longest.toLocaleString("en") }} characters are kept.</p>
    </div>`,
  props: { longest: Number },
  data() {
    return { isFull: false, fieldId: `prompt-${Math.random().toString(36).slice(2)}` };
  },
  mounted() {
    this.told = "";
    this.$refs.area.value = mlPage.draft(DRAFT) ?? "";
    this.grow();
    document.addEventListener("click", this.tell, true); // before the button that is pressed hears of it
    document.addEventListener("keydown", this.pressed);
    window.addEventListener("pagehide", this.left);
  },
  unmounted() {
    document.removeEventListener("click", this.tell, true);
    document.removeEventListener("keydown", this.pressed);
    window.removeEventListener("pagehide", this.left);
  },
  methods: {
    typed() {
      mlPage.keepDraft(DRAFT, this.$refs.area.value);
      this.grow();
    },
    tell() {
      const text = this.$refs.area?.value ?? "";
      if (text !== this.told) this.$emit("typed", (this.told = text));
    },
    put(text) {
      const area = this.$refs.area;
      area.value = text;
      mlPage.keepDraft(DRAFT, text);
      this.told = text;
      this.grow();
      area.focus();
      area.setSelectionRange(text.length, text.length);
    },
    grow() {
      const area = this.$refs.area;
      this.isFull = area.value.length >= this.longest;
      area.style.height = "auto";
      area.style.height = `${area.scrollHeight + 2}px`;
    },
    pressed(event) {
      if (document.querySelector(".q-dialog")) return; // its keys are its own
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
        event.preventDefault();
        this.tell();
        this.$emit("run");
      } else if (event.key === "Escape") this.$emit("stop");
    },
    left() {
      this.$emit("stop"); // nobody would read on
    },
  },
};
