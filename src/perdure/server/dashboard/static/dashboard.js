import "./clock.js";
import "./live.js";
import "./actions.js";
import "./forms.js";
import "./bulk.js";
import "./further.js";
import "./page.js";
